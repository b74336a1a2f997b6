"""llama.cpp computes the logits, tokens and stops of our GGUF files as transformers does the model's."""

from pathlib import Path

from conftest import sample_dialogues
from dialogsum_sft.data.encoding import build_prompts
from dialogsum_sft.data.prompts import PromptSettings
from dialogsum_sft.publish import gguf_export, modelfile
from gguf_models import CONFIGS, HARD, SPLITS, model_folder, tokenizer_with, undivided_bpe

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

llama_cpp = pytest.importorskip("llama_cpp_py_sync", reason="llama.cpp as a library: pip install llama-cpp-py-sync")
try:
    llama_cpp._cffi_bindings.get_lib()
except RuntimeError as error:  # its wheel needs glibc 2.38
    pytest.skip(str(error), allow_module_level=True)


class LlamaCpp:
    """A GGUF file in llama.cpp, in float32 throughout."""

    def __init__(self, path: Path) -> None:
        self.llm = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=1024, n_threads=1, type_k="f32", type_v="f32")
        self.lib, self.ffi = self.llm._lib, self.llm._ffi
        self.vocab = self.lib.llama_model_get_vocab(self.llm._model)

    def tokens(self, text: str) -> list[int]:
        """As Ollama and llama-server tokenize a prompt: with control tokens, and BOS where the file asks for it."""
        data = text.encode()
        found = self.ffi.new("llama_token[]", len(data) + 8)
        count = self.lib.llama_tokenize(self.vocab, data, len(data), found, len(data) + 8, True, True)
        return [int(found[i]) for i in range(count)]

    def logits(self, ids: list[int]) -> torch.Tensor:
        """(positions, vocabulary)"""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.llm._ctx), True)
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, number in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = number, i, 1, 0
            batch.logits[i] = 1
        assert self.lib.llama_decode(self.llm._ctx, batch) == 0
        size = 4 * len(ids) * self.lib.llama_vocab_n_tokens(self.vocab)
        data = bytearray(self.ffi.buffer(self.lib.llama_get_logits(self.llm._ctx), size))
        self.lib.llama_batch_free(batch)
        return torch.frombuffer(data, dtype=torch.float32).reshape(len(ids), -1)

    def is_stop(self, number: int) -> bool:
        return bool(self.lib.llama_vocab_is_eog(self.vocab, number))


def test_logits_and_greedy_summaries_are_those_of_transformers(
    chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    settings = PromptSettings()
    (prompt,) = build_prompts(sample_dialogues()[:1], chatml_tokenizer, settings, None)
    for name in CONFIGS:
        folder = model_folder(tmp_path / name, name, chatml_tokenizer)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.inference_mode():
            made = model.generate(torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False)[0].tolist()
            expected = model(torch.tensor([made])).logits[0]
        for kind, allowed in {"f32": 1e-4, "q8_0": 5e-2}.items():
            ours = LlamaCpp(gguf_export.write(folder, "tiny", kind, chatml_tokenizer, {2}, False))
            found = ours.logits(made)
            assert (found - expected).abs().max() < allowed * expected.abs().max(), (name, kind)
            if kind == "f32":
                assert found.argmax(-1)[len(prompt.ids) - 1 : -1].tolist() == made[len(prompt.ids) :], name
            assert ours.is_stop(2)
            assert not ours.is_stop(100)


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_of_the_modelfile_have_our_token_ids(split: str, tmp_path: Path) -> None:
    steps, options = SPLITS[split]
    tokenizer = tokenizer_with(*steps, **options | undivided_bpe())
    folder = model_folder(tmp_path, "llama", tokenizer)
    ours = LlamaCpp(gguf_export.write(folder, "tiny", "f16", tokenizer, {2}, False))
    rows = [row | {"dialogue": row["dialogue"] + HARD} for row in sample_dialogues()[:20]]
    settings = PromptSettings()
    before, after = modelfile.around_dialogue(tokenizer, settings)
    for row, prompt in zip(rows, build_prompts(rows, tokenizer, settings, None), strict=True):
        assert ours.tokens(before + prompt.text + after) == prompt.ids, row["id"]
