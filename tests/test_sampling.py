import pytest
import torch
from conftest import awake
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from cddpm_core import devices
from cddpm_core.data import ConditionDataset
from cddpm_core.errors import UserError
from cddpm_core.labels import to_multi_hot
from cddpm_core.model import ClassConditionedUnet, make_model
from cddpm_core.params import Params
from cddpm_core.sampling import autocast, image_seeds, sample, sampling_options, trajectory
from cddpm_core.schedule import SAMPLERS, alpha_bar, make_scheduler, predicted_x_0, target

# T and the steps of each sampler: ddpm walks all of T = 20.
STEPS = {"ddpm": 20, "ddim": 10, "dpm_solver++": 8, "sde_dpm_solver++": 8,
         "unipc": 10, "heun": 8}


@pytest.fixture
def model(tiny):
    made = awake(make_model(tiny))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # An untrained network hardly looks at the label.
        made.class_embedding.weight.mul_(20)
        made.pixel_mean.uniform_(-0.3, 0.3, generator=generator)
        made.pixel_scale.fill_(0.3)
    return made.eval()


@pytest.fixture
def scheduler(tiny):
    return make_scheduler(tiny)


LABELS = ConditionDataset("new_test").labels[:3]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch(model, scheduler, sampler, guidance):
    options = {"sampler": sampler, "num_inference_steps": STEPS[sampler],
               "guidance_scale": guidance}
    together = sample(model, scheduler, LABELS, [5, 6, 7], **options)
    assert together.shape == (3, 3, 64, 64) and together.abs().max() <= 1
    for index in range(3):
        alone = sample(model, scheduler, LABELS[index:index + 1], [5 + index], **options)
        assert torch.allclose(alone[0], together[index], atol=2e-3)
    by_two = sample(model, scheduler, LABELS, [5, 6, 7], batch_size=2, **options)
    assert torch.allclose(by_two, together, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_makes_the_image(model, scheduler, sampler):
    options = {"sampler": sampler, "num_inference_steps": STEPS[sampler]}
    same_label = LABELS[:1].expand(3, -1)
    torch.manual_seed(1)
    first = sample(model, scheduler, same_label, [4, 4, 5], **options)
    torch.manual_seed(2)
    again = sample(model, scheduler, same_label, [4, 4, 5], **options)
    assert torch.equal(first, again)
    assert torch.allclose(first[0], first[1], atol=1e-4)
    assert (first[0] - first[2]).abs().mean() > 1e-3


def test_sampling_leaves_the_global_generator(model, scheduler):
    before = torch.get_rng_state()
    sample(model, scheduler, LABELS, [1, 2, 3], sampler="ddpm")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_label_changes_the_image(model, scheduler, sampler):
    options = {"sampler": sampler, "num_inference_steps": STEPS[sampler]}
    images = sample(model, scheduler, LABELS, [4, 4, 4], **options)
    assert (images[0] - images[1]).abs().max() > 1e-3


def first_x_0(model, scheduler, labels, **options) -> torch.Tensor:
    seen = []
    sample(model, scheduler, labels, list(range(len(labels))), sampler="dpm_solver++",
           num_inference_steps=2, callback=seen.append, **options)
    return seen[0]["x_0"]


def test_guidance_of_one_is_the_conditional_network_alone(model, scheduler):
    x_0 = first_x_0(model, scheduler, LABELS)
    noise = torch.stack([torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(seed))
                         for seed in range(3)])
    with torch.no_grad():
        expected = predicted_x_0(scheduler, model(noise, 19, LABELS), noise, 19)
    assert torch.allclose(x_0, expected, atol=1e-5)


@pytest.mark.parametrize("w", [0.0, 0.5, 3.0, 7.5])
def test_guidance_goes_from_the_unconditional_through_the_conditional(model, scheduler, w):
    label = first_x_0(model, scheduler, LABELS)
    null = first_x_0(model, scheduler, torch.zeros_like(LABELS))
    assert (label - null).abs().max() > 1e-3
    found = first_x_0(model, scheduler, LABELS, guidance_scale=w)
    assert torch.allclose(found, null + w * (label - null), atol=1e-3)


class Oracle(ClassConditionedUnet):
    """Knows x_0, and so predicts without error what the scheduler asks for."""

    def forward(self, x_t, timesteps, labels, places=None):
        t = int(timesteps)
        a = alpha_bar(self.scheduler)[t]
        epsilon = (x_t - a.sqrt() * self.x_0) / (1 - a).sqrt()
        return target(self.scheduler, self.x_0.expand_as(x_t), epsilon, torch.tensor([t]))


@given(st.sampled_from(sorted(SAMPLERS)), st.data(),
       st.sampled_from(["epsilon", "v_prediction", "sample"]),
       st.sampled_from(["squaredcos_cap_v2", "linear"]), st.booleans())
@settings(max_examples=40)
def test_a_perfect_prediction_ends_at_the_image(sampler, data, kind, schedule, standardise):
    params = Params(num_train_timesteps=60, num_inference_steps=10, prediction_type=kind,
                    beta_schedule=schedule, standardise=standardise, loss_weighting="uniform")
    divisors = sampler in ("ddim", "unipc")
    possible = [1, 2, 3, 10, 30, 60] if divisors else [1, 2, 3, 7, 29, 60]
    steps = data.draw(st.sampled_from(possible))
    model = Oracle(class_emb_size=16, blocks=[0], channels=[1], image_size=8,
                   attention_head_dim=4)
    model.scheduler = make_scheduler(params)
    model.pixel_scale.fill_(0.5)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 8, 8, generator=generator) - 0.5
    model.x_0 = model.standardise(image)
    found = sample(model, model.scheduler, LABELS[:1], [8], sampler=sampler,
                   num_inference_steps=steps)
    assert torch.allclose(found[0], image, atol=2e-3)


def test_callback_says_where_it_is_and_what_it_sees(model, scheduler):
    seen = []
    sample(model, scheduler, LABELS[:2], [1, 2], sampler="ddim", num_inference_steps=10,
           callback=seen.append)
    assert [moment["step"] for moment in seen] == list(range(10))
    assert [moment["timestep"] for moment in seen] == list(range(19, 0, -2))
    for moment in seen:
        assert moment["x_t"].shape == moment["x_0"].shape == (2, 3, 64, 64)
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(seen[0]["x_t"][1], noise)
    for moment in (seen[0], seen[7]):
        with torch.no_grad():
            output = model(moment["x_t"], moment["timestep"], LABELS[:2])
        expected = predicted_x_0(scheduler, output, moment["x_t"], moment["timestep"])
        assert torch.allclose(moment["x_0"], expected, atol=1e-4)


@pytest.mark.parametrize(("sampler", "steps", "moments"), [
    ("ddim", 10, 12), ("dpm_solver++", 10, 10), ("sde_dpm_solver++", 15, 12), ("ddpm", 20, 12),
    ("ddpm", 20, 40)])
def test_trajectory_goes_from_noise_to_the_finished_image(model, scheduler, sampler, steps,
                                                          moments):
    options = {"sampler": sampler, "num_inference_steps": steps, "guidance_scale": 2.0}
    film = trajectory(model, scheduler, LABELS[0], 9, moments, **options)
    assert 10 <= len(film) == min(moments, steps + 1)
    timesteps = [moment["timestep"] for moment in film]
    assert timesteps[0] == 19 and timesteps[-1] == -1
    assert timesteps == sorted(set(timesteps), reverse=True)
    gaps = [b["step"] - a["step"] for a, b in zip(film, film[1:], strict=False)]
    assert film[0]["step"] == 0 and film[-1]["step"] == steps and max(gaps) <= min(gaps) + 1
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(9))
    assert torch.equal(film[0]["x_t"], noise)
    image = sample(model, scheduler, LABELS[:1], [9], **options)[0]
    assert torch.allclose(model.denormalise(film[-1]["x_t"]), image, atol=1e-5)
    assert all(moment["x_t"].shape == moment["x_0"].shape == (3, 64, 64) for moment in film)


def test_images_have_the_same_seed_in_any_batch():
    assert image_seeds(3, 8)[:5] == image_seeds(3, 5)
    seeds = [seed for run in range(50) for seed in image_seeds(run, 64)]
    assert len(set(seeds)) == len(seeds)
    torch.Generator().manual_seed(image_seeds(2**31, 64)[-1])


def test_all_conditions_of_a_file_in_batches(model, scheduler):
    conditions = ConditionDataset("test")
    with tqdm(total=3 * 4) as bar:
        images = sample(model, scheduler, conditions.labels, image_seeds(0, 32), batch_size=12,
                        sampler="dpm_solver++", num_inference_steps=4, bar=bar)
        assert bar.n == 12
    assert images.shape == (32, 3, 64, 64) and images.device.type == "cpu"
    assert images.isfinite().all()


def test_all_timesteps_are_walked_by_default(model, scheduler):
    seen = []
    sample(model, scheduler, LABELS[:1], [0], callback=seen.append)
    assert [moment["timestep"] for moment in seen] == list(range(19, -1, -1))


def test_bf16_is_near_full_precision(model, scheduler, monkeypatch):
    monkeypatch.setattr(devices, "computes_bf16", lambda device: True)
    options = {"sampler": "dpm_solver++", "num_inference_steps": 4}
    full, half = (sample(model, scheduler, LABELS, [1, 2, 3], mixed_precision=m, **options)
                  for m in ("no", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert (full - half).abs().mean() < 0.05
    with autocast("cpu", "no"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_each_image_needs_a_seed(model, scheduler):
    with pytest.raises(ValueError, match="expected one seed an image, found 2 for 3 labels"):
        sample(model, scheduler, LABELS, [1, 2])


def test_more_objects_than_the_network_knows_are_one_sentence(model, scheduler):
    label = to_multi_hot(["red cube", "blue cube", "gray cube", "cyan cube"])
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        sample(model, scheduler, label[None], [1])


def test_guidance_outside_its_interval_is_none(model, scheduler):
    options = {"sampler": "ddim", "num_inference_steps": 10}
    alone = sample(model, scheduler, LABELS, [5, 6, 7], **options)
    full = sample(model, scheduler, LABELS, [5, 6, 7], guidance_scale=4.0, **options)
    none = sample(model, scheduler, LABELS, [5, 6, 7], guidance_scale=4.0,
                  guidance_interval=(0.5, 0.5), **options)
    part = sample(model, scheduler, LABELS, [5, 6, 7], guidance_scale=4.0,
                  guidance_interval=(0.4, 0.8), **options)
    assert torch.equal(none, alone) and not torch.equal(full, alone)
    assert not torch.equal(part, alone) and not torch.equal(part, full)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_guidance_by_an_evaluator_raises_its_likelihood(tiny, model, kind):
    scheduler = make_scheduler(tiny.replace(prediction_type=kind, loss_weighting="uniform"))

    def likelihood(images, labels):  # of images that are bright where the label says so
        return -(images.mean((1, 2, 3)) - labels.sum(1) / 10).square()

    options = {"sampler": "ddim", "num_inference_steps": 10}
    alone = sample(model, scheduler, LABELS, [5, 6, 7], **options)
    asked = sample(model, scheduler, LABELS, [5, 6, 7], evaluator_guidance=3000.0,
                   likelihood=likelihood, **options)
    assert (likelihood(asked, LABELS) > likelihood(alone, LABELS)).all()
    with pytest.raises(ValueError, match="needs the evaluator's likelihood"):
        sample(model, scheduler, LABELS, [5, 6, 7], evaluator_guidance=1.0, **options)


def test_the_evaluator_is_left_out_unless_it_is_asked_for():
    assert sampling_options(Params(), len)["likelihood"] is None
    assert sampling_options(Params(evaluator_guidance=2.0), len)["likelihood"] is len


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_to_begin_with_are_drawn_from_the_noise_they_are_given(model, scheduler, sampler,
                                                                      images):
    options = {"sampler": sampler, "num_inference_steps": STEPS[sampler], "images": images[:3] / 3}
    seen = []
    for strength in (0.2, 0.6, 1.0):
        drawn = sample(model, scheduler, LABELS, [5, 6, 7], strength=strength,
                       callback=seen.append, **options)
        assert drawn.shape == (3, 3, 64, 64) and drawn.isfinite().all()
        assert all(moment["timestep"] < round(20 * strength) for moment in seen)
        assert seen[0]["timestep"] == max(moment["timestep"] for moment in seen)
        seen.clear()


def test_a_perfect_network_gives_back_the_image_it_begins_with(tiny, images):
    scheduler = make_scheduler(tiny.replace(prediction_type="sample", loss_weighting="uniform"))

    class Knowing(ClassConditionedUnet):
        def forward(self, x_t, timesteps, labels, places=None):
            return self.standardise(images[:3])

    model = Knowing(class_emb_size=8, channels=[1], blocks=[0], attention_head_dim=2)
    for sampler in SAMPLERS:
        drawn = sample(model, scheduler, LABELS, [5, 6, 7], sampler=sampler, images=images[:3],
                       num_inference_steps=STEPS[sampler], strength=0.6)
        assert torch.allclose(drawn, images[:3], atol=0.15), sampler


@pytest.fixture
def laid_out(tiny):
    """A network that is told where objects are to stand, of three scenes."""
    made = awake(make_model(tiny, num_layouts=3))
    with torch.no_grad():
        made.placed_objects.mul_(10)
        made.layouts.uniform_(0.2, 0.8, generator=torch.Generator().manual_seed(1))
    return made.eval()


def test_the_seed_chooses_the_scene_whose_places_are_taken(laid_out):
    labels = LABELS[:1].expand(40, -1)
    places = laid_out.draw_places(labels, range(40))
    names = LABELS[0].argsort(descending=True, stable=True)[:int((LABELS[0] > 0.5).sum())]
    taken = {tuple(row[names].flatten().tolist()) for row in places}
    there = {tuple(scene[:len(names)].flatten().tolist()) for scene in laid_out.layouts}
    assert taken == there
    assert torch.equal(~places[..., 0].isnan(), labels > 0.5)
    alone = laid_out.draw_places(labels[7:8], [7])
    assert torch.equal(alone.nan_to_num(-1), places[7:8].nan_to_num(-1))


def test_of_several_scenes_the_clearest_is_taken(laid_out):
    names = LABELS[0].argsort(descending=True, stable=True)[:int((LABELS[0] > 0.5).sum())]
    assert len(names) > 1

    def gap(scene):
        return torch.pdist(scene[:len(names)]).min()

    first, all_of_many = (laid_out.draw_places(LABELS[:1].expand(20, -1), range(20), choices)
                          for choices in (1, 64))
    best = max(laid_out.layouts, key=gap)[:len(names)]
    assert (all_of_many[:, names] == best).all()
    for seed in range(20):
        few = laid_out.draw_places(LABELS[:1], [seed], 2)[0, names]
        assert gap(few) >= gap(first[seed, names])


def test_one_object_stands_where_the_first_scene_of_the_seed_has_it(laid_out):
    alone = torch.eye(24)[:5]
    assert torch.equal(laid_out.draw_places(alone, range(5), 8).nan_to_num(-1),
                       laid_out.draw_places(alone, range(5), 1).nan_to_num(-1))


def test_the_clearest_scene_is_a_choice_of_the_parameters(laid_out, scheduler):
    seeds, options = range(30), {"sampler": "dpm_solver++", "num_inference_steps": 1}
    labels = LABELS[:1].expand(30, -1)
    one, four = (sample(laid_out, scheduler, labels, seeds, layout_choices=choices, **options)
                 for choices in (1, 4))
    assert torch.equal(four, sample(laid_out, scheduler, labels, seeds, **options,
                                    places=laid_out.draw_places(labels, seeds, 4)))
    assert not torch.equal(one, four)
    assert sampling_options(Params(layout_choices=7))["layout_choices"] == 7


def test_places_that_are_given_are_those_of_the_image(laid_out, scheduler):
    options = {"sampler": "dpm_solver++", "num_inference_steps": 4, "guidance_scale": 2.0}
    seeds = [1, 2, 3]
    own = laid_out.draw_places(LABELS, seeds)
    drawn = sample(laid_out, scheduler, LABELS, seeds, **options)
    assert torch.equal(drawn, sample(laid_out, scheduler, LABELS, seeds, places=own, **options))
    moved = sample(laid_out, scheduler, LABELS, seeds, places=1 - own, **options)
    assert (moved - drawn).abs().amax((1, 2, 3)).min() > 1e-3


def test_a_network_without_layouts_has_no_places(model):
    assert model.draw_places(LABELS, [1, 2, 3]) is None
