import json

import numpy as np
import pytest
from conftest import SHARED, normalised, picture

from cddpm_core.data.images import load_image
from cddpm_core.evaluation.given_images import read_images
from cddpm_core.evaluation.tone import GROUND, read_tone, set_back


def test_sampled_images_have_the_tone_of_real_ones(sampled):
    assert read_tone(sampled).kind == "plain"
    assert sum(read_tone(image[None]).kind == "plain" for image in sampled) >= 30


def test_min_max_normalisation_is_recognised_and_undone(sampled):
    stretched, plain = normalised(sampled), read_tone(sampled)
    low, high = int(sampled.min()), int(sampled.max())
    gain, tone = 255 / (high - low), read_tone(stretched)
    assert tone.kind == "stretched" and gain > 1.2
    assert tone.ground == pytest.approx(gain * (plain.ground - low), abs=1)
    assert tone.contrast == pytest.approx(gain * plain.contrast, rel=0.02)
    again = set_back(stretched)
    assert read_tone(again.round().astype(np.uint8)).kind == "plain"
    assert np.abs(again - sampled).mean() < 5 < 10 < np.abs(stretched - again).mean()


def test_images_stretched_each_by_itself_are_recognised_and_undone(sampled):
    stretched = normalised(sampled, scale_each=True)
    assert read_tone(stretched).kind == "stretched each"
    assert np.abs(set_back(stretched, each=True) - sampled).mean() < 6


@pytest.mark.parametrize("change", [
    lambda x: 127.5 + x / 2,  # (x + 1) / 2 taken twice
    lambda x: x * 0.5,
    lambda x: np.sqrt(x / 255) * 255,  # gamma
])
def test_another_range_is_recognised(sampled, change):
    assert read_tone(change(sampled.astype(float)).astype(np.uint8)).kind == "other"


def test_images_without_the_ground_are_recognised(sampled):
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
    assert read_tone(noise).kind == "unknown"
    assert read_tone(np.asarray(picture())[None]).kind == "unknown"
    assert read_tone(np.zeros((2, 64, 64, 3), np.uint8)).kind == "unknown"
    clipped = (sampled.astype(float) - 127.5).clip(0) * 2  # [-1, 1] saved as if it were [0, 1]
    assert read_tone(clipped.clip(0, 255).astype(np.uint8)).kind in ("unknown", "other")
    assert set_back(noise).shape == noise.shape


def test_the_size_of_the_images_does_not_matter(sampled):
    large = sampled.repeat(3, 1).repeat(2, 2)
    assert read_tone(large).kind == "plain"
    assert abs(read_tone(large).ground - read_tone(sampled).ground) < 1


def test_frames_of_clevrs_generator_and_real_ones_are_plain():
    if not (SHARED / "clevr/frames").is_dir():
        pytest.skip("the frames of CLEVR's generator are not at ../shared/clevr")
    files = [*(SHARED / "clevr/frames").glob("*.png"), *(SHARED / "real_scenes").glob("scene_*"),
             *(SHARED / "reference").glob("real_seq_*.png")]
    frames = np.stack([load_image(file) for file in sorted(files)])
    assert len(frames) == 103
    assert all(read_tone(frame[None]).kind == "plain" for frame in frames)
    bands = np.median(frames[:96].transpose(1, 0, 2, 3).reshape(64, -1), 1).reshape(8, 8).mean(1)
    assert np.allclose(bands, GROUND, atol=0.1)  # where the constant comes from


def test_the_stretched_grids_of_other_peoples_models_are_told_from_all_others():
    folder = SHARED / "peers"
    if not folder.is_dir():
        pytest.skip("grids with official scores are not at ../shared/peers")
    for entry in json.loads((folder / "manifest.json").read_text()):
        kind = read_tone(read_images(folder / entry["file"], expected=32).pixels).kind
        # Two grids are called lossless although each of their images reaches from 0 to 255.
        each = entry["source"] == "Part-time-Ray"
        assert kind == ("stretched" if entry["quality"] == "tone stretched" else
                        "stretched each" if each else "plain"), entry
