"""The rules of a wearable's link; they know nothing of bleak, of clocks or of waiting."""
