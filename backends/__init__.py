"""What a model can do, one file per capability: a capability turned into unit work."""
