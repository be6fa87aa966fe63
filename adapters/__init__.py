"""Adapters for the frameworks' models, one file a framework or family."""

if __name__ != "captum_vit.adapters":
    raise ImportError("import captum_vit.adapters, not adapters: a second copy of its classes would match no model")
