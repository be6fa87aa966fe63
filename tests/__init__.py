"""The test suite of captum-vit."""
