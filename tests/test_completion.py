"""The completion script in a real bash: verbs, options, choices, names of configs, files."""

import shutil
import subprocess
from pathlib import Path

from dialogsum_sft import command, completion

import pytest


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(completion.script("bash", command.VERBS))
    return path


def completed(script: Path, folder: Path, words: str) -> set[str]:
    """What bash offers for the last word of a command line that was typed in `folder`."""
    typed = words.split(" ")
    lines = f"""
        source {script}
        COMP_WORDS=({" ".join(word or "''" for word in typed)}) COMP_CWORD={len(typed) - 1}
        COMP_LINE='{words}' COMP_POINT={len(words)}
        function=$(complete -p dialogsum-sft | sed -E 's/.*-F ([^ ]+).*/\\1/')
        $function dialogsum-sft '{typed[-1]}' '{typed[-2]}' 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", lines], cwd=folder, capture_output=True, text=True, check=True)
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dialogsum-sft ", {"sft", "eval", "compare", "inspect", "merge", "benchmark", "summarize"}),
        ("dialogsum-sft su", {"summarize"}),
        ("dialogsum-sft --completion ", {"bash", "zsh", "fish"}),
        ("dialogsum-sft sft --config qwen3_", {"qwen3_1_7b", "qwen3_4b", "qwen3_8b_qlora"}),
        ("dialogsum-sft sft --config my", {"my_run.yaml"}),
        ("dialogsum-sft eval --accelerate_config fs", {"fsdp2", "fsdp2_qlora"}),
        ("dialogsum-sft summarize --engine ", {"transformers", "vllm", "openai"}),
        ("dialogsum-sft summarize chat.txt --adapter_p", {"--adapter_path"}),
        ("dialogsum-sft summarize --adapter_path r", {"runs"}),
        ("dialogsum-sft summarize --output_f", {"--output_file", "--output_format"}),
        ("dialogsum-sft sft --lora_ran", set()),
        ("dialogsum-sft sft --packing_st", {"--packing_strategy"}),  # of TRL, not in --help
        ("dialogsum-sft sft --lr_scheduler_type cosine_", {"cosine_with_restarts", "cosine_with_min_lr"}),
        ("dialogsum-sft sft --use_peft ", {"true", "false"}),
        ("dialogsum-sft merge --packing", set()),
    ],
)
def test_bash_completes(bash_script: Path, tmp_path: Path, words: str, expected: set[str]) -> None:
    (tmp_path / "my_run.yaml").touch()
    (tmp_path / "chat.txt").touch()
    (tmp_path / "runs").mkdir()
    found = completed(bash_script, tmp_path, words)
    assert expected <= found if expected else not found
    if words[-1] != " ":
        assert all(name.startswith(words.split()[-1]) for name in found)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(completion.script(shell, {"merge": command.VERBS["merge"]}))
    text = path.read_text()
    assert "quickstart" in text
    assert "adapter_path" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n", path], check=True)
