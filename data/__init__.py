"""A package only so that the prepare scripts can share `data.layout`; it is not installed."""
