"""Whether a handler is there is told from its file; nothing of it is run."""

import pytest

from eventcore.config.lint_handlers import lint_handlers
from eventcore.config.load import load_config
from eventcore.errors import ConfigError


@pytest.fixture
def find(tmp_path):
    """Return the codes and the texts of what is found about one handler, beside files."""

    def find(handler, **files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        (tmp_path / "eventcore.toml").write_text(f'[functions.f]\nhandler = "{handler}"\n')
        try:
            found = load_config(tmp_path, also=lint_handlers).warnings
        except ConfigError as error:
            found = error.mistakes
        return [
            (finding.code, f"{finding.message} ({finding.hint})")
            for finding in found
            if finding.code in {"EC125", "EC162"}
        ]

    return find


@pytest.mark.parametrize(
    "text",
    [
        "def price(event, context): ...",
        "async def price(order): ...",
        "class price: ...",
        "price = make()",
        "price: object = make()",
        "from elsewhere import price",
        "import elsewhere as price",
        "try:\n    import fast\nexcept ImportError:\n    def price(event): ...\n",
        "if True:\n    pass\nelse:\n    price, other = 1, 2",
        "with a as price: ...",
        "1 / 0\nraise SystemExit\ndef price(event): ...",
    ],
)
def test_a_handler_that_is_there_is_found_however_it_is_written(find, text):
    assert find("orders.price", orders=text) == []


@pytest.mark.parametrize(
    ("handler", "files", "said"),
    [
        ("ordres.price", {"orders": "def price(): ..."}, "no module `ordres`" ),
        ("ordres.price", {"orders": "def price(): ..."}, "did you mean `orders.price`?"),
        ("orders.prise", {"orders": "def price(): ..."}, "did you mean `orders.price`?"),
        ("orders.price", {"orders": "class A:\n    def price(self): ..."}, "there is no `price` in"),
        ("orders.price", {"orders": "def outer():\n    price = 1"}, "there is no `price` in"),
        ("orders.price", {"orders": "def price(:\n"}, "orders.py:1 is not Python"),
        ("shop.orders.price", {"shop__other": ""}, "no module `shop.orders`"),
        ("orders.nix.price", {"orders": "1 / 0"}, "no module `orders.nix`"),
    ],
)  # fmt: skip
def test_a_handler_that_is_not_there_is_a_mistake(find, handler, files, said):
    ((code, text),) = find(handler, **files)
    assert code == "EC125"
    assert said in text


def test_a_key_function_is_looked_for_below_its_functions_code(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "orders.py").write_text("def price(event): ...\ndef key_of(record): ...\n")
    pipeline = """
        [functions.f]
        handler = "orders.price"
        code = "code"
        [queues.orders]
        [mappings.m]
        source = "queue:orders"
        function = "f"
        idempotency = { key_function = "orders.%s" }
    """
    (tmp_path / "eventcore.toml").write_text(pipeline % "key_of")
    load_config(tmp_path, also=lint_handlers)
    (tmp_path / "eventcore.toml").write_text(pipeline % "key_off")
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path, also=lint_handlers)
    (mistake,) = refused.value.mistakes
    assert (mistake.code, mistake.path) == ("EC125", "mappings.m.idempotency.key_function")
    assert "did you mean `orders.key_of`?" in mistake.hint


@pytest.mark.parametrize("handler", ["shop.orders.price", "shop/orders.price"])
def test_packages_are_searched_and_not_run(find, handler):
    """With and without an `__init__`: this one would end the process."""
    assert find(handler, shop__orders="def price(event): ...") == []
    assert find(handler, shop____init__="raise SystemExit", shop__orders="def price(event): ...") == []


def test_what_is_installed_is_there_too(find):
    assert find("json.loads") == []
    assert find("xml.dom.minidom.parseString") == []
    assert [code for code, _ in find("json.lods")] == ["EC125"]


@pytest.mark.parametrize("text", ["from a import *", "def __getattr__(name): ...", "globals()['x'] = 1", "exec('x')"])
def test_what_a_file_does_not_tell_is_a_warning(find, text):
    assert [code for code, _ in find("orders.price", orders=text)] == ["EC162"]


def test_handlers_are_looked_for_beside_other_mistakes(tmp_path):
    """All at once; what is badly written, or lies in a folder that is not there, is told once."""
    (tmp_path / "orders.py").write_text("def price(event): ...\n")
    (tmp_path / "eventcore.toml").write_text(
        '[functions.a]\nhandler = "orders.prize"\ntimeout = "10"\n'
        '[functions.b]\nhandler = "orders:price"\n'
        '[functions.c]\nhandler = "orders.price"\ncode = "lib"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, also=lint_handlers)
    assert [mistake.path for mistake in caught.value.mistakes] == [
        "functions.a.handler",
        "functions.a.timeout",
        "functions.b.handler",
        "functions.c.code",
    ]
