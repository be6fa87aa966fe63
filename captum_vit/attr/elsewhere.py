"""Methods of the field that are not here, by the letters of their names, and what stands nearest to them."""

import re

ELSEWHERE = {
    "nearest are gradcam, layercam and hirescam, which weigh the channels of tokens by gradients, and agcam, which "
    "weighs attention": "cam ablationcam fullgrad smoothgradcam++ shapleycam",
    "gradcam with weights='elementwise' is that": "gradcamelementwise elementwisegradcam",
    "nearest are gradient_rollout, which weighs attention by its gradient and multiplies the layers, and agcam, which "
    "adds them up": (
        "relevancemaps attentiontimesgradient gradattention gradientattention attngrad gradattn attentioncam"
    ),
    "cp_lrp and attn_lrp are of that kind": (
        "lrp partiallrp conservativelrp conservativepropagation lrpvit relevance relevancepropagation "
        "layerwiserelevancepropagation deeptaylordecomposition"
    ),
    "transformer_attribution is that, and generic_relevance the later and cheaper one": (
        "chefer chefer1 cheferetal transformerexplainability tattr transformerinterpretability"
    ),
    "generic_relevance is that": (
        "genericattention genericattentionexplainability transformermmexplainability chefer2"
    ),
    "nearest is rollout": "attentionflow maxflow attnrollout vitrollout rolloutattention",
    "gradient_rollout is that": "gradrollout attentiongradientrollout attentiongradrollout vitgradrollout",
    "raw_attention is that": "attention attentionmap attentionmaps selfattention rawattn attentionweights clsattention",
    "Captum has captum.attr:Saliency, captum.attr:IntegratedGradients and captum.attr:GradientShap": (
        "shap gradient gradients vanillagradient vanillagradients ig smoothgrad gradxinput inputxgrad"
    ),
    "token_occlusion, rise, tis and vitcx ask the model about images with parts left out": (
        "vitshapley perturbation leaveoneout loo"
    ),
}


def elsewhere(method: str) -> str | None:
    """What is said of a method of the field that is not here; None of any other name."""
    return next((told for told, names in ELSEWHERE.items() if letters(method) in names.split()), None)


def letters(name: str) -> str:
    """A name without its case, hyphens and spaces."""
    return re.sub(r"[^a-z0-9+]", "", name.casefold())
