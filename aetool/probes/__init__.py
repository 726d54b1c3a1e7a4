"""How features are judged: each probe takes cached features and labels and returns what they are worth."""
