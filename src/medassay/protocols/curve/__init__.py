"""How well a curve is fitted, beside how much the beats differ among themselves."""
