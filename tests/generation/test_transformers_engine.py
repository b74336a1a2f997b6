"""Batched generation equals that of single prompts, keeps their order and restores the model."""

from collections.abc import Callable
from itertools import chain
from typing import Any

from conftest import tiny_model
from dialogsum_sft import InputError
from dialogsum_sft.generation.engine import Completion, generation_config
from dialogsum_sft.generation.transformers_engine import batches, generate_batches, try_options

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def model(chatml_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny_model(chatml_tokenizer)


@pytest.fixture(scope="module")
def prompts(chatml_tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    words = [
        "the",
        "dog",
        "that",
        "Mr.",
        "Ito",
        "walks",
        "in",
        "the",
        "park",
        "every",
        "morning",
        "has",
        "run",
        "away",
        "and",
        "he",
        "is",
        "asking",
        "everyone",
    ]
    return [chatml_tokenizer(" ".join(words[:n]))["input_ids"] for n in (7, 1, 18, 3, 12)]


def generate(*args: Any, **kwargs: Any) -> dict[int, Completion]:
    return dict(chain.from_iterable(generate_batches(*args, **kwargs)))


def run(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    tokens: int = 12,
    **kwargs: int,
) -> list[Completion]:
    config = generation_config(tokenizer, frozenset([tokenizer.eos_token_id]), tokens)
    done = generate(model, tokenizer, prompts, config, **kwargs)
    assert len(done) == len(prompts)
    return [done[i] for i in range(len(prompts))]


def test_batches_keep_to_the_token_budget_longest_first() -> None:
    assert batches([5, 50, 7, 20, 6], max_new_tokens=10, max_batch_tokens=60) == [[1], [3, 2], [4, 0]]


def test_a_prompt_over_the_budget_is_a_batch_of_its_own() -> None:
    assert batches([100, 1], max_new_tokens=10, max_batch_tokens=20) == [[0], [1]]


def test_every_prompt_is_in_one_batch() -> None:
    lengths = [(i * 37) % 101 + 1 for i in range(200)]
    chosen = [i for batch in batches(lengths, 16, 512) for i in batch]
    assert sorted(chosen) == list(range(200))


def test_a_batch_equals_single_prompts(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    batched = run(model, chatml_tokenizer, prompts, max_batch_tokens=10_000)
    alone = [run(model, chatml_tokenizer, [prompt])[0] for prompt in prompts]
    assert batched == alone
    assert len({completion.text for completion in alone}) == len(prompts)
    assert [completion.prompt_tokens for completion in batched] == [len(prompt) for prompt in prompts]


def test_padding_is_on_the_left_for_any_tokenizer(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    assert chatml_tokenizer.padding_side == "right"
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    run(model, chatml_tokenizer, prompts[:2], tokens=1)
    hook.remove()
    mask = seen[0]["attention_mask"]
    assert mask[0].all()
    assert mask[1].tolist() == [0] * (len(prompts[0]) - len(prompts[1])) + [1] * len(prompts[1])


def test_text_ends_before_the_stop_token(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    free = generation_config(chatml_tokenizer, frozenset([chatml_tokenizer.eos_token_id]), 6, output_scores=False)
    ids = model.generate(torch.tensor([prompts[0]]), generation_config=free)[0, len(prompts[0]) :].tolist()
    stop_at = ids[3]
    assert stop_at not in ids[:3]
    config = generation_config(chatml_tokenizer, frozenset([stop_at]), 6)
    completion = generate(model, chatml_tokenizer, [prompts[0]], config)[0]
    assert completion.text == chatml_tokenizer.decode(ids[:3]).strip()
    assert (completion.completion_tokens, completion.finish_reason) == (4, "stop")


def test_an_unfinished_summary_has_finish_reason_length(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    completion = run(model, chatml_tokenizer, prompts[:1], tokens=3)[0]
    assert (completion.completion_tokens, completion.finish_reason) == (3, "length")


def sliding_model(tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    """A model with sliding-window attention over eight tokens."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MistralForCausalLM(
        MistralConfig(vocab_size=len(tokenizer), sliding_window=8, num_key_value_heads=2, **shape)
    )


@pytest.mark.parametrize("make", [tiny_model, sliding_model])
def test_finished_rows_leave_the_batch_without_changing_others(
    chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], make: Callable[..., PreTrainedModel]
) -> None:
    """One token in ten is a stop token, so that rows end at different steps."""
    model = make(chatml_tokenizer)
    stop_ids = frozenset(range(0, len(chatml_tokenizer), 10))
    config = generation_config(chatml_tokenizer, stop_ids, 30)
    many = [prompt[n:] for prompt in prompts for n in range(len(prompt))]
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    batched = generate(model, chatml_tokenizer, many, config, max_batch_tokens=100_000)
    hook.remove()
    alone = [generate(model, chatml_tokenizer, [prompt], config)[0] for prompt in many]
    assert [batched[i] for i in range(len(many))] == alone
    assert len({completion.completion_tokens for completion in alone}) > 5
    assert widths[0] == (len(many), max(map(len, many)))
    assert {length for _, length in widths[1:]} == {1}  # the cache was kept
    assert widths[-1][0] < len(many) / 3


def out_of_memory_above(rows: int, error: Exception) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["input_ids"].shape[0] > rows:
            raise error

    return hook


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a memory object: not enough memory"),
    ],
)
def test_a_batch_that_runs_out_of_memory_is_halved_without_repeats(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], error: Exception
) -> None:
    expected = run(model, chatml_tokenizer, prompts, tokens=4)
    hook = model.register_forward_pre_hook(out_of_memory_above(2, error), with_kwargs=True)
    config = generation_config(chatml_tokenizer, frozenset([chatml_tokenizer.eos_token_id]), 4)
    done = list(
        chain.from_iterable(generate_batches(model, chatml_tokenizer, prompts, config, max_batch_tokens=10_000))
    )
    hook.remove()
    assert sorted(i for i, _ in done) == list(range(len(prompts)))
    assert [dict(done)[i] for i in range(len(prompts))] == expected


def test_no_memory_for_a_single_dialogue_is_one_line(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    hook = model.register_forward_pre_hook(out_of_memory_above(0, torch.OutOfMemoryError("CUDA")), with_kwargs=True)
    with pytest.raises(InputError, match="out of memory at a single dialogue: .* --max_length"):
        run(model, chatml_tokenizer, prompts)
    hook.remove()


def test_other_runtime_errors_are_raised(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    hook = model.register_forward_pre_hook(out_of_memory_above(0, RuntimeError("shape mismatch")), with_kwargs=True)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(model, chatml_tokenizer, prompts)
    hook.remove()


def test_sampling_depends_on_its_seeds_and_leaves_the_random_state(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    config = generation_config(chatml_tokenizer, frozenset([chatml_tokenizer.eos_token_id]), 8, do_sample=True)
    assert (config.temperature, config.top_k, config.top_p) == (1.0, 0, 1.0)

    def texts(*seeds: int) -> list[str]:
        """Completions of one prompt, in batches of two."""
        done = generate(model, chatml_tokenizer, [prompts[0]] * 4, config, seeds=seeds, max_batch_tokens=30)
        return [done[i].text for i in range(4)]

    before = torch.get_rng_state()
    drawn = texts(1, 2, 3, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert texts(1, 2, 3, 4) == drawn
    assert len(set(drawn)) == 4
    assert set(texts(5, 6, 7, 8)).isdisjoint(drawn)


def test_beam_search_in_a_batch_equals_single_prompts(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    config = generation_config(chatml_tokenizer, frozenset(range(0, 1000, 10)), 12, num_beams=3)
    batched = generate(model, chatml_tokenizer, prompts, config)
    alone = [generate(model, chatml_tokenizer, [prompt], config)[0] for prompt in prompts]
    assert [batched[i] for i in range(len(prompts))] == alone


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", None])
def test_dropout_is_off_and_the_model_is_restored(
    chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], task_type: str | None
) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False, task_type=task_type)
    tuned = get_peft_model(tiny_model(chatml_tokenizer), lora).train()
    own_config = tuned.generation_config
    completions = run(tuned, chatml_tokenizer, prompts, tokens=5)
    assert completions == run(tuned, chatml_tokenizer, prompts, tokens=5)
    assert all(completion.completion_tokens <= 5 for completion in completions)
    assert tuned.training
    assert tuned.generation_config is own_config


def test_the_models_own_sampling_options_are_not_used(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    """Qwen ships a repetition penalty of 1.05: greedy decoding through it is not greedy decoding."""
    before = run(model, chatml_tokenizer, prompts)
    shipped = tiny_model(chatml_tokenizer)
    shipped.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=3.0)
    assert run(shipped, chatml_tokenizer, prompts) == before


def test_stop_strings_end_a_summary_and_are_cut_off(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    def completed(**options: Any) -> dict[int, Completion]:
        config = generation_config(chatml_tokenizer, frozenset([chatml_tokenizer.eos_token_id]), 12, **options)
        return generate(model, chatml_tokenizer, prompts, config)

    whole = completed()
    stop = whole[0].text[3:5]
    stopped = completed(stop_strings=[stop])
    assert (stopped[0].text, stopped[0].finish_reason) == (whole[0].text.split(stop)[0].strip(), "stop")
    assert int(stopped[0].completion_tokens or 0) < int(whole[0].completion_tokens or 0)
    assert all(stop not in one.text for one in completed(stop_strings=stop, num_beams=2).values())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bad_words_ids": [5]}, "has to be a list of lists"),
        ({"repetition_penalty": 0}, "has to be a strictly positive float"),
        ({"do_sample": True, "top_k": -1}, "has to be a strictly positive integer"),
        ({"is_assistant": True}, "is_assistant: generate refuses"),
        ({"suppress_tokens": "all"}, "suppress_tokens: generate refuses"),
    ],
)
def test_what_generate_refuses_is_told_before_a_model_is_loaded(
    chatml_tokenizer: PreTrainedTokenizerFast, kwargs: dict[str, Any], message: str
) -> None:
    config = generation_config(chatml_tokenizer, frozenset([2]), 12, **kwargs)
    state = torch.random.get_rng_state()
    with pytest.raises(InputError, match=message) as error:
        try_options(chatml_tokenizer, config, kwargs)
    assert "\n" not in str(error.value)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 0.8},
        {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9},
        {"stop_strings": ["a"]},
        {"repetition_penalty": 1.2, "min_new_tokens": 5},
        {"cache_implementation": "static"},
        {"guidance_scale": 1.5},
    ],
)
def test_what_generate_takes_is_left_as_it_is(
    chatml_tokenizer: PreTrainedTokenizerFast, kwargs: dict[str, Any]
) -> None:
    config = generation_config(chatml_tokenizer, frozenset([2]), 12, **kwargs)
    before = config.to_dict()
    try_options(chatml_tokenizer, config, kwargs)
    assert config.to_dict() == before


def test_a_watch_gets_the_text_so_far_and_ends_the_generation_by_what_it_raises(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    config = generation_config(chatml_tokenizer, frozenset({-1}), 6)
    seen: list[str] = []
    (completion,) = generate(model, chatml_tokenizer, prompts[:1], config, watch=seen.append).values()
    assert completion == generate(model, chatml_tokenizer, prompts[:1], config)[0]
    assert len(seen) == 6
    assert seen[-1] == completion.text
    assert all(completion.text.startswith(text.rstrip("\ufffd")) for text in seen)

    def stop(text: str) -> None:
        seen.append(text)
        raise KeyError

    seen.clear()
    with pytest.raises(KeyError):
        generate(model, chatml_tokenizer, prompts[:1], config, watch=stop)
    assert len(seen) == 1
    assert model.generation_config is not config


def test_a_watch_of_several_prompts_or_beams_gets_no_text(
    model: LlamaForCausalLM, chatml_tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    seen: list[str] = []
    generate(
        model,
        chatml_tokenizer,
        prompts[:2],
        generation_config(chatml_tokenizer, frozenset({-1}), 3),
        watch=seen.append,
    )
    generate(
        model,
        chatml_tokenizer,
        prompts[:1],
        generation_config(chatml_tokenizer, frozenset({-1}), 3, num_beams=2),
        watch=seen.append,
    )
    assert set(seen) == {""}
