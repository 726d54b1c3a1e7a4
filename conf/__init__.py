"""The configs that a user composes; installed as aetool.conf."""
