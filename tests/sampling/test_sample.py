import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.config.seeds import torch_generator
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.model.codec import PixelCodec
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.sampling.denoiser import Denoiser
from cddpm_core.sampling.guidance import ClassifierGuided, Guided
from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.scheduler.process import make_scheduler
from cddpm_core.scheduler.samplers import SAMPLERS

# Steps of each sampler where T is 20.
STEPS = {"ddpm": 20, "ddim": 10, "dpm_solver++": 8, "sde_dpm_solver++": 8, "unipc": 10}
LABELS = ConditionDataset("new_test").labels[:3]
SEEDS = [5, 6, 7]


def options_of(sampler: str, **others) -> dict:
    return {"sampler": sampler, "num_inference_steps": STEPS[sampler], **others}


class Knowing:
    """A denoiser that knows the x_0 of its images."""

    def __init__(self, x_0, scheduler):
        self.x_0, self.scheduler = x_0, scheduler

    def __call__(self, x_t, t, labels, positions=None):
        return self.x_0.expand_as(x_t)


SMALL = ClassConditionedUnet(class_emb_size=16, blocks=[0], channels=[1], image_size=8,
                             attention_head_dim=4)
SCHEDULERS = {(schedule, standardise): make_scheduler(Params(
    num_train_timesteps=60, beta_schedule=schedule, standardise=standardise))
    for schedule in ("squaredcos_cap_v2", "linear") for standardise in (True, False)}


@given(st.sampled_from(sorted(SAMPLERS)), st.data(), st.sampled_from(sorted(SCHEDULERS)),
       st.integers(0, 9))
@settings(max_examples=40)
def test_every_sampler_ends_at_the_x_0_of_a_perfect_denoiser(sampler, data, key, seed):
    steps = 60 if SAMPLERS[sampler].all_steps else data.draw(
        st.sampled_from([1, 2, 3, 7, 29, 60]))
    codec = PixelCodec(8)
    codec.scale.fill_(0.5)
    pipeline = ClassConditionedPipeline(SMALL, SCHEDULERS[key], codec)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.5
    denoiser = Knowing(codec.encode(images), pipeline.scheduler)
    found = sample(pipeline, LABELS, SEEDS, sampler=sampler, num_inference_steps=steps,
                   denoiser=denoiser)
    assert torch.allclose(found, images, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch(tiny_pipeline, sampler, scale):
    options = options_of(sampler, denoiser=Guided(
        Denoiser(tiny_pipeline.unet, tiny_pipeline.scheduler), scale))
    together = sample(tiny_pipeline, LABELS, SEEDS, **options)
    assert together.shape == (3, 3, 64, 64) and together.abs().max() <= 1
    alone = sample(tiny_pipeline, LABELS[1:2], SEEDS[1:2], **options)
    assert torch.allclose(alone[0], together[1], atol=2e-3)
    by_two = sample(tiny_pipeline, LABELS, SEEDS, batch_size=2, **options)
    assert torch.allclose(by_two, together, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seed_and_label_make_the_image(tiny_pipeline, sampler):
    labels, options = LABELS[[0, 0, 0, 1]], options_of(sampler)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(tiny_pipeline, labels, [4, 4, 5, 4], **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sample(tiny_pipeline, labels, [4, 4, 5, 4], **options), first)
    assert torch.allclose(first[0], first[1], atol=1e-4)
    assert (first[0] - first[2]).abs().mean() > 1e-3  # another seed
    assert (first[0] - first[3]).abs().max() > 1e-3  # another label


@torch.no_grad()
def test_the_callback_gets_what_the_network_sees_at_each_step(tiny_pipeline):
    seen, positions = [], tiny_pipeline.layout_prior.sample(LABELS[:2], [1, 2])
    sample(tiny_pipeline, LABELS[:2], [1, 2], **options_of("ddim", callback=seen.append))
    assert [moment["step"] for moment in seen] == list(range(10))
    assert [moment["timestep"] for moment in seen] == list(range(19, 0, -2))
    x_shape = tiny_pipeline.codec.mean.shape
    noise = torch.randn(x_shape, generator=torch_generator(2, "noise"))
    assert torch.equal(seen[0]["x_t"][1], noise)
    denoiser = Denoiser(tiny_pipeline.unet, tiny_pipeline.scheduler)
    for moment in (seen[0], seen[7]):
        expected = denoiser(moment["x_t"], moment["timestep"], LABELS[:2], positions)
        assert torch.allclose(moment["x_0"], expected, atol=1e-4)


def test_all_conditions_of_a_file_in_batches(tiny_pipeline):
    labels = ConditionDataset("test").labels
    with tqdm(total=3 * 4) as bar:
        images = sample(tiny_pipeline, labels, image_seeds(0, 32), batch_size=12,
                        sampler="dpm_solver++", num_inference_steps=4, bar=bar)
        assert bar.n == 12
    assert images.shape == (32, 3, 64, 64) and images.device.type == "cpu"
    assert images.isfinite().all()


def test_the_default_is_every_timestep_without_guidance(tiny_pipeline):
    seen = []
    sample(tiny_pipeline, LABELS[:1], [0], callback=seen.append)
    assert [moment["timestep"] for moment in seen] == list(range(19, -1, -1))


def test_seeds_are_the_same_in_any_batch_and_differ_between_runs():
    assert image_seeds(3, 8)[:5] == image_seeds(3, 5)
    seeds = [seed for run in range(50) for seed in image_seeds(run, 64)]
    assert len(set(seeds)) == len(seeds)
    torch.Generator().manual_seed(image_seeds(2**31, 64)[-1])


def test_each_image_needs_a_seed(tiny_pipeline):
    with pytest.raises(ValueError, match="expected a seed per image, found 2 for 3 labels"):
        sample(tiny_pipeline, LABELS, [1, 2])


def test_more_objects_than_the_network_has_tokens_are_one_sentence(tiny_pipeline):
    label = to_multi_hot(["red cube", "blue cube", "gray cube", "cyan cube"])
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        sample(tiny_pipeline, label[None], [1])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.04, 0.2, 0.6, 1.0])
def test_images_to_start_from_are_noised_to_the_timestep_of_the_strength(tiny_pipeline, images,
                                                                         sampler, strength):
    seen = []
    options = options_of(sampler, images=images[:3] / 3, strength=strength)
    found = sample(tiny_pipeline, LABELS, SEEDS, callback=seen.append, **options)
    assert found.shape == (3, 3, 64, 64) and found.isfinite().all()
    first, timesteps = seen[0], [moment["timestep"] for moment in seen]
    assert first["timestep"] == max(timesteps)
    # The last timestep that a sampler knows stands for strengths below it.
    assert first["timestep"] < max(round(20 * strength), min(timesteps) + 1)
    alpha_bar = tiny_pipeline.scheduler.alphas_cumprod[first["timestep"]]
    x_0 = tiny_pipeline.codec.encode(images[:3] / 3)
    noise = torch.stack([torch.randn(x_0.shape[1:], generator=torch_generator(seed, "noise"))
                         for seed in SEEDS])
    expected = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
    assert torch.allclose(first["x_t"], expected, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_returns_the_images_it_starts_from(tiny_pipeline, dataset, sampler):
    images = dataset.batch([0, 1, 2])[0]
    denoiser = Knowing(tiny_pipeline.codec.encode(images), tiny_pipeline.scheduler)
    found = sample(tiny_pipeline, LABELS, SEEDS, images=images, strength=0.6, grain=False,
                   **options_of(sampler, denoiser=denoiser))
    expected = tiny_pipeline.codec.decode(denoiser.x_0)
    assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("standardise", [True, False])
def test_every_sampler_clips_predictions_unless_images_are_standardised(sampler, standardise):
    pipeline = ClassConditionedPipeline(SMALL, SCHEDULERS["linear", standardise], PixelCodec(8))
    seen = []
    sample(pipeline, LABELS, SEEDS, sampler=sampler, callback=seen.append,
           num_inference_steps=60 if sampler == "ddpm" else 10,
           denoiser=Knowing(torch.tensor(2.0), pipeline.scheduler))
    assert all((moment["x_0"] == (2 if standardise else 1)).all() for moment in seen)


def test_grain_is_added_to_the_finished_images_from_the_seed_of_each(tiny_pipeline):
    options, grain = options_of("ddim"), torch.tensor(tiny_pipeline.codec.config.grain)
    assert grain.any()  # the images of the data set are noise
    plain = sample(tiny_pipeline, LABELS, SEEDS, grain=False, **options)
    found = sample(tiny_pipeline, LABELS, SEEDS, **options)
    noise = torch.stack([torch.randn(3, 64, 64, generator=torch_generator(seed, "grain"))
                         for seed in SEEDS])
    expected = plain + torch.einsum("ij,bjhw->bihw", grain, noise)
    assert torch.allclose(found, expected.clamp(-1, 1), atol=1e-5)
    alone = sample(tiny_pipeline, LABELS[1:], SEEDS[1:], **options)
    assert torch.allclose(alone, found[1:], atol=1e-4)


def test_positions_are_sampled_from_the_layout_prior_unless_they_are_given(tiny_pipeline):
    options, prior = options_of("dpm_solver++"), tiny_pipeline.layout_prior
    found = sample(tiny_pipeline, LABELS, SEEDS, **options)
    positions = prior.sample(LABELS, SEEDS)
    assert torch.equal(found, sample(tiny_pipeline, LABELS, SEEDS, positions=positions, **options))
    moved = sample(tiny_pipeline, LABELS, SEEDS, positions=1 - positions, **options)
    assert (moved - found).abs().amax((1, 2, 3)).min() > 1e-3
    four = sample(tiny_pipeline, LABELS, SEEDS, layout_choices=4, **options)
    assert torch.equal(four, sample(tiny_pipeline, LABELS, SEEDS, **options,
                                    positions=prior.sample(LABELS, SEEDS, 4)))
    assert not torch.equal(four, found)


def test_options_are_those_of_the_parameters(tiny_pipeline, tiny, monkeypatch):
    params = tiny.replace(layout_choices=7, sample_batch_size=5, guidance_scale=2.5,
                          guidance_interval=[0.1, 0.5], sampler="ddim", mixed_precision="bf16")
    options = sampling_options(tiny_pipeline, params)
    denoiser = options.pop("denoiser")
    assert options == {"sampler": "ddim", "num_inference_steps": 5, "layout_choices": 7,
                       "grain": True, "batch_size": 5}
    assert isinstance(denoiser, Guided) and denoiser.scale == 2.5
    assert (denoiser.low, denoiser.high) == (0.1, 0.5)
    assert denoiser.denoiser.mixed_precision == "bf16"
    assert denoiser.denoiser.network is tiny_pipeline.unet
    compile = torch.compile  # whose own code takes a minute
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    fast = sampling_options(tiny_pipeline, params.replace(compile="yes"))
    assert fast["denoiser"].denoiser.network is not tiny_pipeline.unet
    slow = sampling_options(tiny_pipeline, params)
    assert torch.allclose(sample(tiny_pipeline, LABELS, SEEDS, **fast),
                          sample(tiny_pipeline, LABELS, SEEDS, **slow), atol=1e-5)
    evaluator = type("Evaluator", (), {"log_likelihood": None})
    guided = params.replace(evaluator_guidance=9)
    found = sampling_options(tiny_pipeline, guided, evaluator)["denoiser"]
    assert isinstance(found, ClassifierGuided) and isinstance(found.denoiser, Guided)


def test_a_single_process_samples_all_images_itself(tiny_pipeline):
    options = options_of("sde_dpm_solver++")
    alone = sample(tiny_pipeline, LABELS, SEEDS, **options)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    assert torch.equal(sample(tiny_pipeline, LABELS, SEEDS, accelerator=accelerator, **options),
                       alone)
