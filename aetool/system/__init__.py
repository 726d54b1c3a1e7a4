"""The machine and the processes that aetool runs on."""
