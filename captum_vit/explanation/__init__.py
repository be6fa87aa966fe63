"""From a model and an image to an Explanation, and all that can be done with one."""
