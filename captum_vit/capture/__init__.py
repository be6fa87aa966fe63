"""The only code that touches a running model; it leaves every model as it found it."""
