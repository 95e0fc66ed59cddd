"""Where a data set's images come from, under what licence, and how to cite them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medassay.data.medmnist_files import read_licence

MEDMNIST = (
    "Yang J, Shi R, Wei D, et al. MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image "
    "classification. Scientific Data 10:41 (2023)."
)
_KERMANY = (
    "Kermany DS, Goldbaum M, Cai W, et al. Identifying medical diagnoses and treatable diseases by image-based deep learning. "
    "Cell 172(5):1122–1131 (2018)."
)
_ORGANS = (
    "Bilic P, Christ P, Li HB, et al. The liver tumor segmentation benchmark (LiTS). Medical Image Analysis 84:102680 (2023).",
    "Xu X, Zhou F, Liu B, et al. Efficient multiple organ localization in CT image using 3D region proposal network. IEEE "
    "Transactions on Medical Imaging 38(8):1885–1898 (2019).",
)
SOURCES = {  # by MedMNIST's name: what a set was made from; the licences are those of the medmnist package
    "bloodmnist": (
        "Acevedo A, Merino A, Alférez S, et al. A dataset of microscopic peripheral blood cell images for development of "
        "automatic recognition systems. Data in Brief 30:105474 (2020).",
    ),
    "breastmnist": (
        "Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28:104863 (2020).",
    ),
    "dermamnist": (
        "Tschandl P, Rosendahl C, Kittler H. The HAM10000 dataset, a large collection of multi-source dermatoscopic images of "
        "common pigmented skin lesions. Scientific Data 5:180161 (2018).",
        "Codella N, Rotemberg V, Tschandl P, et al. Skin lesion analysis toward melanoma detection 2018. arXiv:1902.03368 "
        "(2019).",
    ),
    "octmnist": (_KERMANY,),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "Kather JN, Krisam J, Charoentong P, et al. Predicting survival from colorectal cancer histology slides using deep "
        "learning: a retrospective multicenter study. PLoS Medicine 16(1):e1002730 (2019).",
    ),
    "pneumoniamnist": (_KERMANY,),
    "retinamnist": (
        "Liu R, Wang X, Wu Q, et al. DeepDRiD: diabetic retinopathy grading and image quality estimation challenge. Patterns "
        "3(6):100512 (2022).",
    ),
    "tissuemnist": (
        "Ljosa V, Sokolnicki KL, Carpenter AE. Annotated high-throughput microscopy image sets for validation. Nature Methods "
        "9:637 (2012).",
        "Woloshuk A, Khochare S, Almulhim AF, et al. In situ classification of cell types in human kidney tissue using 3D "
        "nuclear staining. Cytometry Part A 99(7):707–721 (2021).",
    ),
}


@dataclass(frozen=True)
class Origin:
    """Where images come from.

    Attributes:
        source: That in words.
        licence: Name of the licence; None where it is not known.
        citation: What to cite, one text a work.
    """

    source: str
    licence: str | None = None
    citation: tuple[str, ...] = ()


OTHERS = {  # by the record's name of the set: what is no set of MedMNIST's
    "digits": Origin(
        "The 1,797 digits that come with scikit-learn, the test part of the UCI set.",
        "CC BY 4.0",
        ("Alpaydin E, Kaynak C. Optical recognition of handwritten digits. UCI Machine Learning Repository (1998).",),
    ),
    "mnist": Origin(
        "MNIST, downloaded by torchvision.",
        "CC BY-SA 3.0",
        (
            "LeCun Y, Bottou L, Bengio Y, Haffner P. Gradient-based learning applied to document recognition. Proceedings of "
            "the IEEE 86(11):2278–2324 (1998).",
        ),
    ),
}


def find_origin(provenance: Mapping[str, Any], flag: str | None) -> Origin:
    """What is known of the images with this ``provenance``.

    Args:
        provenance: As recorded; see :meth:`medassay.data.modules.LabelledData.provenance`.
        flag: MedMNIST's name of the set; None for another.
    """
    if "real" in provenance:  # training and validation images are samples of a generator that learnt from the real ones
        real = find_origin(provenance["real"], flag)
        return Origin(
            f"Images from a generator that learnt from others. Those: {real.source}", real.licence, real.citation
        )
    if provenance.get("phantom"):
        return Origin("Rendered by MedAssay from a seed: no images of patients.", "that of MedAssay (MIT)")
    if provenance.get("published") and flag in SOURCES:
        return Origin(f"The published file of {flag} (MedMNIST).", read_licence(flag), (*SOURCES[flag], MEDMNIST))
    if provenance.get("published") and (other := OTHERS.get(provenance.get("set", ""))) is not None:
        return other
    place = provenance.get("file") or provenance.get("path")
    return Origin(
        "Not stated." if place is None else f"Files of one’s own, {place}; where they come from is not stated."
    )
