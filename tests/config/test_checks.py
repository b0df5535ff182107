import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import resolve


@pytest.mark.parametrize(("values", "words"), [
    ({"blocks": [0], "channels": [1, 2]}, "blocks and channels: expected two lists of the same"),
    ({"blocks": [], "channels": []}, "blocks and channels: expected two lists of the same length"),
    ({"blocks": [0] * 11}, "blocks: expected at most 10 levels, found 11"),
    ({"image_size": 60}, "image_size: expected a multiple of 8"),
    ({"num_train_timesteps": 10, "num_inference_steps": 20},
     "num_inference_steps: expected 1 to num_train_timesteps"),
    ({"prediction_type": "epsilon", "loss_weighting": "velocity"},
     "loss_weighting: the velocity weight of an error of epsilon has no bound"),
    ({"guidance_interval": [0.8, 0.2]}, "guidance_interval: expected two fractions of T, the low"),
    ({"guidance_interval": [0.5]}, "guidance_interval: expected two fractions of T"),
    ({"attention_head_dim": 40}, "attention_head_dim: expected a divisor of 128"),
    ({"blocks": [0, 1, 1]}, "blocks: u_vit has attention only at the last level"),
    ({"class_emb_size": 30}, "class_emb_size: expected a multiple of 4, found 30"),
    ({"sampler": "unipc", "num_inference_steps": 61}, "unipc cannot divide 1000 timesteps into 61"),
    ({"student_id": "0716 221"}, "student_id: expected letters, digits"),
    ({"language": "English"}, "language: expected a code"),
    ({"label_drop": 0}, "guidance_scale: 1.25 needs a model trained with dropped labels"),
    ({"sampler": "ddpm"}, "num_inference_steps: ddpm takes every timestep, expected 1000"),
])
def test_values_that_exclude_one_another(values, words):
    with pytest.raises(UserError) as error:
        resolve(values, "a.yaml")
    assert words in str(error.value) and str(error.value).startswith("a.yaml: ")
