"""Communication between NPUs."""
