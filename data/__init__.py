"""A package only so that the prepare scripts can import `data.layout`; it is not installed."""
