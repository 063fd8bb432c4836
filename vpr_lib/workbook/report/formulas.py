"""LaTeX in Markdown to MathML, so that a report shows formulas without MathJax and without a network."""

import re
from html import escape

_ENVIRONMENT = re.compile(r"\\(begin|end)\{(aligned|align|split|gathered|gather|eqnarray)\*?\}")
_PLAIN = re.compile(r"\\(begin|end)\{(equation|displaymath|math)\*?\}")
_UNUSED = re.compile(r"\\(label|tag)\*?\{[^}]*\}|\\(nonumber|notag)\b")
_NAMESPACE = ' xmlns="http://www.w3.org/1998/Math/MathML"'


def mathml(latex: str, block: bool = False) -> str:
    """MathML of a formula, with its LaTeX as alternative text; the LaTeX itself, as code, where it cannot be converted."""
    from latex2mathml.converter import convert

    source = " ".join(latex.split())
    bare = _UNUSED.sub("", _PLAIN.sub("", _ENVIRONMENT.sub(r"\\\1{align*}", source)))
    try:
        markup = convert(bare, display="block" if block else "inline")
    except Exception:  # the converter raises whatever its parser stumbles over
        markup = "\\"
    if "\\" in markup:  # a command it does not know stands in the markup as it is
        return f'<code class="tex">{escape(source)}</code>'
    return markup.replace(f"<math{_NAMESPACE}", f'<math alttext="{escape(source)}"', 1)


def markdown_renderer(**options):
    """nbconvert's Markdown renderer with formulas as MathML; the parser has set code spans and blocks apart already."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def block_math(self, body):
            return mathml(body, block=True)

        def inline_math(self, body):
            return mathml(body)

        def latex_environment(self, name, body):
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    return Renderer(**options)
