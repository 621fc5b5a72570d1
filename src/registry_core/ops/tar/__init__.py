"""The tar format of layers: strict to read, exact to write."""
