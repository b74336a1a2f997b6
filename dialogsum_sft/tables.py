"""One table type, printed in a terminal, as Markdown or as LaTeX."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rich import box, table
from rich.text import Text

# Characters with a meaning in LaTeX.
_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}


@dataclass
class Table:
    r"""A table of texts: `labels` columns aligned left, the others (numbers) aligned right.

        table = Table("Scores", ["", "ROUGE-1", "words"], note="F1 x 100.")
        table.add_row("baseline", "22.04", "20", style="dim", end_section=True)
        table.add_row("tuned", ("45.10", "bold"), "22")
        console.print(table)
        print(table.markdown(), table.latex(), sep="\n\n")

    Cells are plain text; their markup is never interpreted. Styles are rich's ("bold", "dim", "yellow", "bold red");
    Markdown and LaTeX keep only bold. Without a header a terminal draws no lines.
    """

    title: str = ""
    header: list[str] = field(default_factory=list)
    labels: int = 1
    note: str = ""  # below the table; in LaTeX at the end of its caption
    rows: list[list[str]] = field(default_factory=list)
    styles: dict[tuple[int, int], str] = field(default_factory=dict)  # of the cell (row, column)
    section_ends: set[int] = field(default_factory=set)  # rows with a line below

    def add_row(self, *cells: str | tuple[str, str], style: str = "", end_section: bool = False) -> None:
        """Add texts or (text, style); `style` is that of the other cells, `end_section` draws a line below the row."""
        for column, cell in enumerate(cells):
            self.styles[len(self.rows), column] = style if isinstance(cell, str) else cell[1]
        if end_section:
            self.section_ends.add(len(self.rows))
        self.rows.append([cell if isinstance(cell, str) else cell[0] for cell in cells])

    def __rich__(self) -> table.Table:
        result = table.Table(
            title=Text(self.title, "italic" if self.header else "bold") if self.title else None,
            title_justify="left",
            caption=Text(self.note, "dim") if self.note else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD if self.header else None,
            show_header=bool(self.header),
            pad_edge=False,
        )
        for column in range(self._columns()):
            label = Text(self.header[column]) if self.header else ""
            result.add_column(label, justify="left" if column < self.labels else "right", overflow="fold")
        for number, row in enumerate(self.rows):
            cells = (Text(cell, self.styles.get((number, column), "")) for column, cell in enumerate(row))
            result.add_row(*cells, end_section=number in self.section_ends)
        return result

    def markdown(self) -> str:
        def line(cells: list[str]) -> str:
            return f"| {' | '.join(cells)} |"

        def escape(text: str) -> str:
            return " ".join(text.replace("|", r"\|").split("\n"))

        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [line(list(map(escape, self.header or [""] * self._columns())))]
        lines += ["|" + "---|" * self.labels + "---:|" * (self._columns() - self.labels)]
        lines += map(line, self._marked(escape, "**{}**"))
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def latex(self) -> str:
        """With the rules of booktabs; the label is the title's words before a colon, as in tab:beyond-rouge."""

        def line(cells: list[str]) -> str:
            return rf"{' & '.join(cells)} \\"

        def escape(text: str) -> str:
            return "".join(_LATEX.get(char, char) for char in text)

        title = f"{self.title}." if self.title else ""
        label = "-".join(re.findall(r"[a-z0-9]+", self.title.split(":")[0].lower())) or "table"
        lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{escape(' '.join(filter(None, [title, self.note])))}}}", rf"\label{{tab:{label}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * self.labels}{'r' * (self._columns() - self.labels)}}}", r"\toprule"]
        lines += [line(list(map(escape, self.header))), r"\midrule"] if self.header else []
        for number, cells in enumerate(self._marked(escape, r"\textbf{{{}}}")):
            is_end = number in self.section_ends and number < len(self.rows) - 1
            lines += [line(cells), *([r"\midrule"] if is_end else [])]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])

    def _columns(self) -> int:
        return len(self.header) or max(map(len, self.rows), default=0)

    def _marked(self, escape: Callable[[str], str], bold: str) -> list[list[str]]:
        """The rows with their cells escaped, and the bold ones put into `bold`."""
        return [
            [
                bold.format(escape(cell)) if cell and "bold" in self.styles.get((r, c), "") else escape(cell)
                for c, cell in enumerate(row)
            ]
            for r, row in enumerate(self.rows)
        ]
