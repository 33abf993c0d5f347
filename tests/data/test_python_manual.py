import subprocess
import sys

import pytest

from foliogpt.data.python_manual import library_docstrings, python_manual


@pytest.fixture(scope="session")
def manual():
    return python_manual()


def test_the_manual_holds_topics_and_docstrings_under_sorted_unique_names(manual):
    names = [name for name, _ in manual]
    assert names == sorted(set(names))
    assert len(names) > 5000
    assert {"topics/for", "json", "json.dump", "json.dumps", "json.decoder.JSONDecoder.decode"} <= set(names)
    assert all(text.strip() for _, text in manual)


def test_a_document_of_the_manual_begins_with_its_signature(manual):
    texts = dict(manual)
    assert texts["json"].startswith("json\n\nJSON (JavaScript")
    assert texts["json.dumps"].startswith("json.dumps(obj, *, skipkeys=False, ")
    assert texts["json.decoder.JSONDecoder"].startswith("class json.decoder.JSONDecoder(*, object_hook=None, ")
    assert texts["asyncio.tasks.sleep"].startswith("async asyncio.tasks.sleep(delay, result=None)\n\n")


def test_the_manual_leaves_out_tests_and_what_is_not_the_librarys(manual):
    left_out = (
        *("test", "unittest.test", "idlelib.idle_test", "ctypes.test", "distutils.tests", "lib2to3.tests"),
        *("ensurepip._bundled", "site-packages", "pip", "setuptools", "pytest", "numpy"),
    )
    assert not [name for name, _ in manual if f"{name}.".startswith(tuple(f"{part}." for part in left_out))]


def test_the_manual_repeats_no_text(manual):
    bodies = [text.partition("\n\n")[2] for name, text in manual if "/" not in name]
    assert len(bodies) == len(set(bodies))


def test_the_first_public_name_stays_among_equal_texts(monkeypatch):
    found = [(name, f"class {name}", "Concrete date type.") for name in ("_pydate.date", "dates._date", "dates.date")]
    monkeypatch.setattr("foliogpt.data.python_manual.library_docstrings", lambda: found)
    assert [name for name, _ in python_manual.__wrapped__() if "/" not in name] == ["dates.date"]


def test_reading_the_manual_imports_nothing_of_it():
    code = (
        "import sys; from foliogpt.data.python_manual import python_manual; python_manual();"
        "print({'antigravity', 'this', 'turtle', 'idlelib', 'tkinter'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_docstrings_are_found_in_nested_classes_and_under_conditions(tmp_path):
    (tmp_path / "module.py").write_text(
        '"""Module."""\n'
        "import nowhere\n"
        "class Outer(Base):\n"
        "    class Inner:\n"
        '        """Inner."""\n'
        "        def __init__(self, a, b=1): ...\n"
        "        @property\n"
        "        def size(self):\n"
        '            """Size."""\n'
        "        @size.setter\n"
        "        def size(self, value):\n"
        '            """Set it."""\n'
        "try:\n"
        "    def f(x: int, /, *, y=2) -> str:\n"
        '        """F\n\n'
        '            indented."""\n'
        '        def local(): """Unreachable."""\n'
        "except ImportError:\n"
        "    if True:\n"
        '        async def g(): "G."\n'
        'def empty(): "  "\n'
    )
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "latin.py").write_bytes(b'"""caf\xe9"""')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "inside.py").write_text('"""Not this."""')
    assert list(library_docstrings(tmp_path)) == [
        ("module", "module", "Module."),
        ("module.Outer.Inner", "class module.Outer.Inner(a, b=1)", "Inner."),
        ("module.Outer.Inner.size", "module.Outer.Inner.size", "Size."),
        ("module.f", "module.f(x: int, /, *, y=2) -> str", "F\n\nindented."),
        ("module.g", "async module.g()", "G."),
    ]
