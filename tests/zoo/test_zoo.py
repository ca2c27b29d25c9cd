"""Every zoo entry builds on the meta device and has exactly the published parameters."""

from __future__ import annotations

import pytest

from corestone.core.errors import SpecError
from corestone.recipes.registry import MODELS
from corestone.zoo.catalogue import find, zoo

# Sums over unique tensors of the released configurations (GPT-3: of its table, heads x head size = width).
EXACT = {
    "gpt1-117m": 116_534_784,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.6b": 1_557_611_200,
    "gpt3-125m": 125_226_240,
    "gpt3-350m": 355_871_744,
    "gpt3-760m": 760_300_032,
    "gpt3-1.3b": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "gptj-6b": 6_050_882_784,
    "primer-ez-110m": 109_776_768,
    "primer-ez-537m": 536_758_784,
    "primer-110m": 109_749_120,
    "primer-537m": 536_685_056,
    "primer-base-110m": 109_693_824,
    "primer-base-537m": 536_537_600,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": 65_719_701_504,
    "opt-175b": 174_604_468_224,
    "bloom-560m": 559_214_592,
    "bloom-1.1b": 1_065_314_304,
    "bloom-1.7b": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7.1b": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "palm-8b": 8_632_012_800,
    "palm-62b": 62_495_662_080,
    "palm-540b": 540_356_474_880,
    "h3-125m": 126_387_456,
    "h3-355m": 361_058_304,
    "h3-1.3b": 1_326_096_384,
    "h3-2.7b": 2_670_307_840,
    "h3-2.7b-rotary": 2_671_134_720,
    "bert-tiny": 4_433_468,
    "bert-mini": 11_267_900,
    "bert-small": 29_058_876,
    "bert-medium": 41_668_412,
    "bert-base": 110_106_428,
    "bert-base-cased": 108_932_934,
    "bert-large": 336_226_108,
    "electra-small": 13_549_057,
    "electra-base": 109_483_009,
    "electra-large": 335_142_913,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
    "alexatm-20b": 19_719_790_592,
    "mogrifier-ptb-char-24m": 23_991_446,
    "mogrifier-ptb-word-24m": 23_986_480,
    "mogrifier-enwik8-96m": 95_939_895,
    "vit-ti16": 5_717_416,
    "vit-s16": 22_050_664,
    "vit-b32": 88_224_232,
    "vit-b16": 86_567_656,
    "vit-l32": 306_535_400,
    "vit-l16": 304_326_632,
    "vit-h14": 632_045_800,
    "vit-g14": 1_012_611_432,
    "vit-gigantic14": 1_844_440_680,
    "mnist-m3": 1_124_180,
    "mnist-m5": 1_128_180,
    "mnist-m7": 2_291_972,
    "coatnet-0": 25_036_820,
    "coatnet-1": 42_225_776,
    "coatnet-2": 74_684_744,
    "coatnet-3": 166_966_264,
    "coatnet-4": 275_425_288,
    "coatnet-5": 687_052_952,
    "coatnet-6": 1_348_435_040,
    "coatnet-7": 2_441_972_728,
    "coca-base": 388_937_473,
    "coca-large": 798_188_545,
    "coca-2.1b": 2_122_125_697,
    "clip-rn50": 102_007_137,
    "clip-rn101": 119_688_033,
    "clip-rn50x4": 178_300_601,
    "clip-rn50x16": 290_979_217,
    "clip-rn50x64": 623_258_305,
    "clip-vit-b32": 151_277_313,
    "clip-vit-b16": 149_620_737,
    "clip-vit-l14": 427_616_513,
    "clip-vit-l14-336": 427_944_193,
    "siglip-b16-224": 203_155_970,
    "siglip-b16-256": 203_202_050,
    "siglip-b16-384": 203_447_810,
    "siglip-b16-512": 203_791_874,
    "siglip-l16-256": 652_150_786,
    "siglip-l16-384": 652_478_466,
    "siglip-so400m14-224": 877_360_306,
    "siglip-so400m14-384": 877_960_498,
    "siglip2-b16-224": 375_187_970,
    "basic-s": 132_876_589,
    "basic-m": 348_631_569,
    "basic-l": 3_105_721_361,
}


def test_the_zoo_is_what_is_tested():
    assert list(zoo()) == list(EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_parameter_count_equals_the_published_one(name):
    entry = find(name)
    count = sum(p.numel() for p in MODELS.build(entry.spec, device="meta").parameters())
    assert count == EXACT[name]
    # The papers round, OPT and H3 to the nearest label of GPT-3's, BERT and ELECTRA to the next ten millions; of
    # t5-large the paper says 770 M, of the others one or two digits. Of ViT it gives one number for all patch sizes, of
    # CoCa encoder and decoder alone.
    loose = {
        "opt": 0.06,
        "h3": 0.03,
        "bert": 0.015,
        "electra": 0.035,
        "t5": 0.055,
        "vit": 0.026,
        "coatnet": 0.007,
        "coca": 0.016,
        "basic": 0.0096,
    }
    if name != "coatnet-6":  # whose printed total no source explains (its entry says more)
        assert count == pytest.approx(entry.published, rel=loose.get(entry.family, 0.005))


@pytest.mark.parametrize(("name", "depth", "width", "hidden"), [("110m", 12, 768, 3072), ("537m", 24, 1024, 8192)])
def test_primer_counts_by_hand(name, depth, width, hidden):
    """Keys and values are made of the input, queries of keys: as many weights as three maps of the input, but two
    convolutions of three taps instead of three."""
    attention = 2 * width**2 + 2 * 3 * width + width**2 + width**2
    layer = attention + (2 * width * hidden + hidden + width) + 2 * 2 * width
    assert EXACT[f"primer-{name}"] == 32128 * width + 32 * width // 64 + depth * layer + 2 * width
    assert EXACT[f"primer-ez-{name}"] - EXACT[f"primer-{name}"] == depth * 3 * width


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [("coca-base", 86e6, 297e6), ("coca-large", 303e6, 484e6), ("coca-2.1b", 1e9, 1.1e9)],
)
def test_coca_counts_by_part(name, encoder, decoder):
    """The paper counts both ends by themselves: met to the printed digit, but for 303.57 M printed as 303."""
    model = MODELS.build(find(name).spec, device="meta")
    parts = {"image_embedding": 0, "image_stack": 0, "embedding": 0, "decoder": 0, "head": 0}
    for path, parameter in model.named_parameters():
        if (part := path.split(".")[0]) in parts:
            parts[part] += parameter.numel()
    assert parts["image_embedding"] + parts["image_stack"] == pytest.approx(encoder, rel=0.012)
    assert parts["embedding"] + parts["decoder"] + parts["head"] == pytest.approx(decoder, rel=0.009)


@pytest.mark.parametrize(
    ("name", "image", "width", "depth", "published"),
    [
        ("basic-s", "coatnet-0", 1024, 6, 108e6),
        ("basic-m", "coatnet-3", 1024, 12, 184e6),
        ("basic-l", "coatnet-7", 2048, 12, 670e6),
    ],
)
def test_basic_counts_by_part(name, image, width, depth, published):
    """Text: table, positions, layers of four maps and two, norms; image: CoAtNet without both maps of its head."""
    parts: dict[str, int] = {}
    for path, parameter in MODELS.build(find(name).spec, device="meta").named_parameters():
        part = path.split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    layer = 12 * width**2 + 9 * width + 4 * width
    assert parts["text_tower"] == (32_000 + 64) * width + depth * layer + 2 * width
    assert parts["text_tower"] == pytest.approx(published, rel=0.004)  # worst: 0.38 % of 108 M
    last = find(image).spec.outputs
    assert parts["image_tower"] == EXACT[image] - last * (last + 1) - 1000 * (last + 1)
    assert parts["image_projection"] == last * width


def test_gpt3_alternates_dense_and_banded_layers():
    windows = [block.mixer.window for block in find("gpt3-125m").spec.stack.blocks]
    assert windows == [None, 256] * 6


@pytest.mark.parametrize("name", [name for name in EXACT if name.startswith("mogrifier")])
def test_a_mogrifiers_width_is_the_largest_within_the_published_number(name):
    entry = find(name)
    wider = entry.spec.model_copy(update={"width": entry.spec.width + 1})
    count = sum(p.numel() for p in MODELS.build(wider, device="meta").parameters())
    assert EXACT[name] <= entry.published < count


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'gpt2-124m'"):
        find("gpt2-124")
