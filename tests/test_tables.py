import io
import re

from dialogsum_sft.tables import Table

from rich.console import Console


def scores() -> Table:
    table = Table("Scores & shares", ["", "ROUGE-1", "of human"], note="F1 x 100.")
    table.add_row("base_1 [red]", "22.04", "41%", style="dim", end_section=True)
    table.add_row("a|b", ("45.10", "bold"), "80%")
    return table


def printed(table: Table, width: int = 60, **options: bool) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), **options)
    console.print(table)
    return [line.rstrip() for line in console.export_text(styles=bool(options)).split("\n")]


def test_terminal_shows_title_header_rows_sections_and_note():
    lines = [line for line in printed(scores()) if line]
    assert lines[0] == "Scores & shares"
    assert lines[1].split() == ["ROUGE-1", "of", "human"]
    assert lines[3] == " base_1 [red]     22.04        41%"
    assert lines[4] == " a|b              45.10        80%"
    assert lines[5] == "F1 x 100."


def test_terminal_styles_cells():
    lines = printed(scores(), force_terminal=True)
    assert any("\x1b[2mbase_1 [red]" in line for line in lines)
    assert any(re.search("\x1b\\[1m *45.10", line) for line in lines)


def test_table_without_header_draws_no_lines():
    table = Table(labels=2)
    table.add_row("max_length:", "512", "of the longest row")
    assert [line for line in printed(table) if line] == ["max_length:  512  of the longest row"]


def test_long_texts_are_folded_and_not_cut():
    table = Table("", ["", "value"])
    table.add_row("a" * 50, "1")
    assert "".join(printed(table, width=30)).count("a") == 50 + "value".count("a")


def test_markdown_escapes_pipes_and_marks_bold_cells():
    assert scores().markdown() == "\n".join(
        [
            "**Scores & shares**",
            "",
            "|  | ROUGE-1 | of human |",
            "|---|---:|---:|",
            "| base_1 [red] | 22.04 | 41% |",
            r"| a\|b | **45.10** | 80% |",
            "",
            "F1 x 100.",
        ]
    )


def test_latex_escapes_and_has_sections():
    assert scores().latex() == "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            r"\caption{Scores \& shares. F1 x 100.}",
            r"\label{tab:scores-shares}",
            r"\begin{tabular}{lrr}",
            r"\toprule",
            r" & ROUGE-1 & of human \\",
            r"\midrule",
            r"base\_1 [red] & 22.04 & 41\% \\",
            r"\midrule",
            r"a|b & \textbf{45.10} & 80\% \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
