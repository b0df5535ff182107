import pytest

from cddpm_core.errors import UserError
from cddpm_core.params import resolve


@pytest.mark.parametrize(("values", "words"), [
    ({"blocks": [0], "channels": [1, 2]}, "same length"),
    ({"image_size": 60}, "image_size: expected a multiple of 8"),
    ({"num_train_timesteps": 10, "num_inference_steps": 20},
     "num_inference_steps: expected at most"),
    ({"prediction_type": "epsilon", "loss_weighting": "velocity"},
     "loss_weighting: velocity weighs an error of epsilon"),
    ({"guidance_interval": [0.8, 0.2]}, "guidance_interval: expected two shares of T, the lower"),
    ({"guidance_interval": [0.5]}, "guidance_interval: expected two shares of T"),
    ({"attention_head_dim": 40}, "attention_head_dim: expected a divisor of 128"),
    ({"blocks": [1, 1]}, "blocks: u_vit has attention at the last level alone"),
    ({"class_emb_size": 30}, "class_emb_size: expected a multiple of 4, found 30"),
    ({"sampler": "ddim", "num_inference_steps": 30}, "ddim needs a divisor of num_train_timesteps"),
    ({"student_id": "0716 221"}, "student_id: expected letters, digits"),
    ({"language": "English"}, "language: expected a code"),
    ({"label_drop": 0}, "guidance_scale: 3 needs a model that has seen dropped labels"),
    ({"sampler": "ddpm"}, "sampler: ddpm walks all timesteps"),
])
def test_values_that_do_not_go_together(values, words):
    with pytest.raises(UserError, match=words):
        resolve(values)
