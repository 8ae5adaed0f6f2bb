"""Hostile chat templates, each put where a folder and a GGUF file keep theirs."""

from pathlib import Path

from tests.hostile_base import Cases, Damage, edit, write

HUGE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES: dict[str, tuple[str, str]] = {
    "subclasses (CVE-2024-34359)": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "template"),
    "globals of cycler (CVE-2026-5760)": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "template"),
    "globals of a macro": ("{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ lipsum.__globals__.os }}", "template"),
    "format by reference (CVE-2024-56326)": (
        "{% set f = '{0.__class__.__base__}'.format %}{{ [1]|map('' ~ f)|list }}{{ ''|attr('for' ~ 'mat') }}"
        "{{ (messages|map(attribute='__class__')|list)[0].mro() }}",
        "template",
    ),
    "attr filter (CVE-2025-27516)": ("{{ (messages|attr('__class__')|attr('mro'))() }}", "template"),
    "changes its input": ("{{ messages.append(1) }}", "template"),
    "reads a file": ("{% include '/etc/passwd' %}", "template"),
    "imports a file": ("{% import '/etc/passwd' as x %}{{ x }}", "template"),
    "loops for ever": (HUGE, "template"),
    "repeats a text ten billion times": ("{{ 'a' * 10000000000 }}", "template"),
    "power of powers": ("{{ 9 ** (9 ** (9 ** 9)) }}", "template"),
    "doubles a text for ever": (
        "{% set n = namespace(t='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "template",
    ),
    "fills a gigabyte by width": ("{{ '%1000000000d' % 1 }}", "template"),
    "centres in a gigabyte": ("{{ 'a'|center(4000000000) }}", "template"),
    "writes 2 MB": ("{% for i in range(40000) %}" + "x" * 64 + "{% endfor %}", "template"),
    "calls itself": ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "template"),
    "is no template": ("{% for %}{{ }", "template"),
    "nests 2,000 blocks": ("{% if 1 %}" * 2000 + "{% endif %}" * 2000, "template"),
}


def template(text: str) -> Damage:
    """In its own file, as new folders have it."""
    return write("chat_template.jinja", text)


def not_text(folder: Path) -> None:
    write("chat_template.jinja", b"\xff\xfe{{ x }}")(folder)


CASES: Cases = {f"template that {name}": (template(text), says) for name, (text, says) in TEMPLATES.items()} | {
    "template of 65 KiB": (template("x" * (65 << 10)), "larger than"),
    "template that is not UTF-8": (not_text, "not UTF-8"),
    "template in tokenizer_config.json": (edit("tokenizer_config.json", chat_template=HUGE), "template"),
    "template that is a number": (edit("tokenizer_config.json", chat_template=7), "template"),
}
