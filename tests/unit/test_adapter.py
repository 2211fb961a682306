"""The settings of both adapters: what is refused, which reranker they make, who closes it."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import SecretStr

from rank1_integrations import ConfigurationError, Rank1, Rank1Error
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script

Adapter = Rank1Compressor | Rank1Postprocessor
AdapterClass = type[Rank1Compressor] | type[Rank1Postprocessor]

URL = "http://localhost:8000/v1"
KEY = "s3cret-key"
SHORT, LONG = "b" * 8, "a" * 14


@pytest.fixture(params=[Rank1Compressor, Rank1Postprocessor])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Either adapter's class."""
    return request.param


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(length_script)


@pytest.fixture
def rank1(engine: ScriptedEngine) -> Rank1:
    return Rank1(engine)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "say where the model runs: base_url='http://localhost:8000/v1'"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"backend": "transformers"}, "needs model=, for instance 'jhu-clsp/rank1-0.5b'"),
        ({"backend": "vllm"}, "backend='vllm' needs model="),
        ({"backend": "cloud"}, "backend: Input should be 'server', 'vllm', 'transformers'"),
        ({"rank1": URL}, "rank1: Input should be an instance of Rank1"),
        ({"base_url": URL, "top_n": 0}, "top_n must be at least 1, or None to keep all; it is 0"),
        ({"base_url": URL, "top_n": "many"}, "top_n: Input should be a valid integer"),
        ({"base_url": URL, "score_threshold": 1.2}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "score_threshold": float("nan")}, "score_threshold: Input should be"),
        ({"base_url": URL, "thinking": "fast"}, "Input should be 'full', 'none' or 'adaptive'"),
        ({"base_url": URL, "on_error": "ignore"}, "on_error: Input should be 'raise', 'keep'"),
        ({"base_url": URL, "max_reasoning_tokens": 0}, "greater than or equal to 1"),
        ({"base_url": URL, "deadline": float("inf")}, "deadline: Input should be a finite"),
        ({"base_url": URL, "relevance": "on topic"}, "{query}"),
        ({"base_url": URL, "topn": 3}, "unknown option 'topn' (there are: api_key, backend,"),
    ],
)
def test_a_mistake_is_a_configuration_error_that_says_what_to_do(
    settings: dict[str, Any], advice: str, adapter: AdapterClass
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        adapter(**settings)
    assert advice in str(refusal.value)
    with pytest.raises(ConfigurationError) as refusal:
        adapter.model_validate(settings)
    assert advice in str(refusal.value)


def test_a_mistake_in_serialized_settings_is_a_configuration_error(adapter: AdapterClass) -> None:
    settings = {"base_url": URL, "top_n": 0}
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        adapter.model_validate_json(json.dumps(settings))
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        Rank1Postprocessor.from_dict(settings)
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        Rank1Postprocessor.from_json(json.dumps(settings))


def test_all_mistakes_are_named_at_once(adapter: AdapterClass) -> None:
    with pytest.raises(ConfigurationError, match=r"thinking.*top_n"):
        adapter(base_url=URL, thinking="fast", top_n=0)  # type: ignore[arg-type]


def test_the_adapters_own_settings_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="openinference: Input should be a valid boolean"):
        Rank1Compressor(base_url=URL, openinference="perhaps")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="document_prompt: Input should be an instance"):
        Rank1Compressor(base_url=URL, document_prompt="{page_content}")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="metadata_mode"):
        Rank1Postprocessor(base_url=URL, metadata_mode="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "name", "remedy"),
    [
        ({"base_url": URL, "engine_args": {}}, "engine_args", "backend='vllm'"),
        ({"base_url": URL, "device": "cpu"}, "device", "backend='transformers'"),
        ({"base_url": URL, "dtype": "float32"}, "dtype", "backend='transformers'"),
        ({"base_url": URL, "batch_size": 4}, "batch_size", "backend='transformers'"),
        ({"backend": "demo", "base_url": URL}, "base_url", "backend='server'"),
        ({"backend": "demo", "model": "m"}, "model", "backend='server' or 'vllm' or"),
        ({"backend": "vllm", "model": "m", "api_key": KEY}, "api_key", "backend='server'"),
        ({"backend": "vllm", "model": "m", "timeout": 1.0}, "timeout", "backend='server'"),
        ({"backend": "vllm", "model": "m", "device": "cpu"}, "device", "backend='transformers'"),
        ({"backend": "transformers", "model": "m", "max_retries": 1}, "max_retries", "'server'"),
        ({"backend": "transformers", "model": "m", "default_headers": {}}, "default_h", "'server'"),
        ({"backend": "demo", "context_length": 9}, "context_length", "backend='server'"),
    ],
)
def test_an_argument_without_effect_is_refused_by_name(
    settings: dict[str, Any], name: str, remedy: str, adapter: AdapterClass
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}.* has no effect with.*{remedy}"):
        adapter(**settings)


@pytest.mark.parametrize(
    ("constructor", "settings"),
    [
        (
            "from_server",
            {
                "base_url": URL,
                "model": "m",
                "default_headers": {"X-Tenant": "7"},
                "context_length": 4096,
                "timeout": 5.0,
                "max_retries": 0,
                "thinking": "none",
            },
        ),
        ("from_server", {"base_url": URL, "timeout": None, "api_key": SecretStr("")}),
        ("from_vllm", {"model": "m", "engine_args": {"max_model_len": 900}, "enough": 2}),
        (
            "from_transformers",
            {"model": "m", "device": "cpu", "dtype": "float32", "batch_size": 4, "deadline": 3.0},
        ),
        ("demo", {"max_reasoning_tokens": 64}),
    ],
)
def test_each_backend_gets_the_arguments_that_were_given_and_no_others(
    constructor: str,
    settings: dict[str, Any],
    adapter: AdapterClass,
    rank1: Rank1,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Rank1`'s constructors are replaced: two of them would load a model."""
    calls: list[dict[str, Any]] = []

    def construct(**arguments: Any) -> Rank1:
        calls.append(arguments)
        return rank1

    monkeypatch.setattr(Rank1, constructor, construct)
    backend: Any = constructor.removeprefix("from_")
    adapter(backend=backend, top_n=3, **settings)
    assert calls == [settings]


def test_serialized_settings_name_all_arguments_and_are_accepted(
    adapter: AdapterClass, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Rank1.demo` is replaced: it would load a model."""

    def demo(**options: Any) -> Rank1:
        return Rank1(engine, **{"max_reasoning_tokens": 256, **options})

    monkeypatch.setattr(Rank1, "demo", demo)
    settings = adapter(backend="demo").model_dump()
    settings.pop("class_name", None)
    assert settings["timeout"] == 600.0
    again = adapter(**settings)
    assert (again.max_reasoning_tokens, again._rank1.options.max_reasoning_tokens) == (256, 256)


def test_a_key_may_be_a_plain_text(adapter: AdapterClass) -> None:
    assert adapter(base_url=URL, api_key=KEY).api_key == SecretStr(KEY)
    assert adapter(base_url=URL, api_key=SecretStr(KEY)).api_key == SecretStr(KEY)


def test_a_key_may_be_a_function_that_copies_share(adapter: AdapterClass) -> None:
    keys = iter([KEY])

    def next_key() -> str:
        return next(keys)

    made = adapter(base_url=URL, api_key=next_key)
    assert made.api_key is next_key
    assert copy.deepcopy(made).api_key is next_key
    assert made.model_copy(update={"thinking": "none"}).api_key is next_key


@pytest.mark.parametrize("key", [7, ["list"]])
def test_a_key_of_another_type_is_refused(key: Any, adapter: AdapterClass) -> None:
    with pytest.raises(ConfigurationError, match="api_key"):
        adapter(base_url=URL, api_key=key)


def test_a_shared_reranker_and_settings_exclude_each_other(
    adapter: AdapterClass, rank1: Rank1
) -> None:
    with pytest.raises(ConfigurationError, match="already decides base_url, thinking: give either"):
        adapter(rank1=rank1, base_url=URL, thinking="none")


def test_a_shared_reranker_selects_differently_in_every_chain(
    adapter: AdapterClass, rank1: Rank1
) -> None:
    assert rerank(adapter(rank1=rank1, top_n=1)) == [LONG]
    assert rerank(adapter(rank1=rank1, score_threshold=0.1)) == [LONG, SHORT]


def test_the_options_shown_are_those_of_the_reranker(
    adapter: AdapterClass, engine: ScriptedEngine
) -> None:
    assert adapter(rank1=Rank1(engine, thinking="none")).thinking == "none"
    assert adapter(base_url=URL).thinking == "full"


def test_the_default_timeout_is_the_servers_own(adapter: AdapterClass) -> None:
    constructor = inspect.signature(Rank1.from_server)
    assert adapter.model_fields["timeout"].default == constructor.parameters["timeout"].default


def test_the_selection_can_be_changed_later_and_is_checked(
    adapter: AdapterClass, rank1: Rank1
) -> None:
    made = adapter(rank1=rank1)
    made.top_n = 1
    assert rerank(made) == [LONG]
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        made.top_n = 0
    with pytest.raises(ConfigurationError, match="score_threshold must be between 0 and 1"):
        made.score_threshold = 2.0
    assert (made.top_n, made.score_threshold) == (1, None)


@pytest.mark.parametrize(
    ("name", "value"), [("thinking", "none"), ("base_url", URL), ("api_key", KEY), ("rank1", None)]
)
def test_what_the_reranker_is_made_from_can_not_be_changed(
    name: str, value: Any, adapter: AdapterClass
) -> None:
    made = adapter(base_url=URL)
    with pytest.raises(ConfigurationError, match=f"{name} can't be changed.*model_copy"):
        setattr(made, name, value)


def test_an_unknown_attribute_is_refused(adapter: AdapterClass, rank1: Rank1) -> None:
    with pytest.raises(ConfigurationError, match=r"no setting 'topn' \(there are: api_key"):
        adapter(rank1=rank1).topn = 3


def test_a_copy_with_another_option_has_a_reranker_of_its_own(adapter: AdapterClass) -> None:
    cache: dict[str, str] = {}
    made = adapter(base_url=URL, api_key=KEY, default_headers={"a": "b"}, cache=cache, top_n=4)
    changed = made.model_copy(update={"thinking": "none"})
    assert (changed.thinking, changed._rank1.options.thinking) == ("none", "none")
    assert (made.thinking, made._rank1.options.thinking) == ("full", "full")
    assert changed.api_key == SecretStr(KEY)
    assert changed.default_headers == {"a": "b"}
    assert changed._rank1.options.cache is cache
    assert changed.top_n == 4
    changed.close()
    assert is_closed(changed._rank1)
    assert not is_closed(made._rank1)


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_with_another_selection_shares_the_reranker(
    deep: bool, adapter: AdapterClass
) -> None:
    made = adapter(base_url=URL, top_n=4)
    changed = made.model_copy(update={"top_n": 2}, deep=deep)
    assert (made.top_n, changed.top_n) == (4, 2)
    assert changed._rank1 is made._rank1
    changed.close()
    assert not is_closed(made._rank1)
    made.close()
    assert is_closed(changed._rank1)


@pytest.mark.parametrize("update", [{"top_n": 0}, {"thinking": "fast"}, {"topn": 1}])
def test_a_copy_with_a_mistake_is_refused(update: dict[str, Any], adapter: AdapterClass) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(update))):
        adapter(base_url=URL).model_copy(update=update)


def test_a_copy_of_a_shared_reranker_with_another_option_is_refused(
    adapter: AdapterClass, rank1: Rank1
) -> None:
    with pytest.raises(ConfigurationError, match="rank1= already decides thinking"):
        adapter(rank1=rank1).model_copy(update={"thinking": "none"})


def test_a_copy_may_have_another_reranker(adapter: AdapterClass, rank1: Rank1) -> None:
    changed = adapter(base_url=URL, top_n=1).model_copy(update={"rank1": rank1})
    assert (changed._rank1, changed.top_n) == (rank1, 1)
    assert rerank(changed) == [LONG]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: made.model_copy()])
def test_closing_a_copy_leaves_the_original_open(
    copied: Callable[[Any], Any], adapter: AdapterClass
) -> None:
    made = adapter(base_url=URL, top_n=2)
    twin = copied(made)
    assert (twin.top_n, twin._rank1) == (2, made._rank1)
    twin.close()
    assert not is_closed(made._rank1)
    made.close()
    assert is_closed(made._rank1)


def test_a_deep_copy_shares_the_cache(adapter: AdapterClass) -> None:
    class FileCache(dict[str, str]):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("holds a file")

    cache = FileCache()
    assert copy.deepcopy(adapter(base_url=URL, cache=cache)).cache is cache


async def test_a_shared_reranker_is_its_owners_to_close(
    adapter: AdapterClass, rank1: Rank1
) -> None:
    made = adapter(rank1=rank1)
    made.close()
    await made.aclose()
    assert not is_closed(rank1)
    rank1.close()
    with pytest.raises(Rank1Error, match="closed"):
        rerank(made)


async def test_a_reranker_of_ones_own_is_closed(adapter: AdapterClass) -> None:
    made = adapter(base_url=URL)
    await made.aclose()
    assert is_closed(made._rank1)


@pytest.mark.parametrize(
    "form",
    [repr, str, lambda made: made.model_dump(), lambda made: made.model_dump_json(), pickle.dumps],
)
def test_a_key_is_in_no_serialized_form(
    form: Callable[[Any], Any], adapter: AdapterClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"X-Gateway-Key": KEY}
    with_key = adapter(base_url=URL, api_key=SecretStr(KEY), default_headers=headers)
    monkeypatch.setenv("RANK1_API_KEY", KEY)
    from_environment = adapter(base_url=URL)
    for made in (with_key, from_environment):
        assert KEY not in str(form(made))


@pytest.mark.parametrize("mistake", [{"top_n": 0}, {"topn": 1}, {"base_url": "nowhere"}])
def test_a_mistakes_error_does_not_show_the_key(
    mistake: dict[str, Any], adapter: AdapterClass
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        adapter(**{"base_url": URL, "api_key": KEY, **mistake})
    assert KEY not in str(refusal.value) + repr(refusal.value)
    assert refusal.value.__suppress_context__


def test_settings_survive_json_and_pickle(adapter: AdapterClass) -> None:
    made = adapter(
        base_url=URL, top_n=3, score_threshold=0.4, thinking="none", timeout=None, context_length=99
    )
    settings = json.loads(made.model_dump_json())
    settings.pop("class_name", None)
    for again in (adapter(**settings), pickle.loads(pickle.dumps(made))):
        assert again.model_dump() == made.model_dump()
        assert again._rank1.options.thinking == "none"
        again.close()
    made.close()


def test_cache_and_callback_stay_behind_in_pickles(adapter: AdapterClass) -> None:
    cache = {"passage": "s3cret judgment"}
    made = adapter(base_url=URL, cache=cache, on_judgments=lambda *_: None)
    assert b"s3cret" not in pickle.dumps(made)
    again = pickle.loads(pickle.dumps(made))
    assert (again.cache, again.on_judgments) == (None, None)
    assert made.cache is cache
    assert made.on_judgments is not None


def test_an_unpickled_adapter_owns_its_reranker(adapter: AdapterClass) -> None:
    made = adapter(base_url=URL)
    again = pickle.loads(pickle.dumps(made))
    again.close()
    assert is_closed(again._rank1)
    assert not is_closed(made._rank1)


def test_a_shared_reranker_is_not_pickled_in_silence(adapter: AdapterClass, rank1: Rank1) -> None:
    with pytest.raises(TypeError, match="instead of rank1="):
        pickle.dumps(adapter(rank1=rank1))


@pytest.mark.parametrize(
    ("package", "library", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index.core", "llama-index"),
    ],
)
def test_without_its_framework_an_adapters_import_names_the_extra(
    package: str, library: str, extra: str
) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
from rank1_integrations.exceptions import MissingExtraError
try:
    import rank1_integrations.{package}
except MissingExtraError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'rank1-integrations[{extra}]'" in result.stdout, result.stderr


def rerank(adapter: Adapter) -> list[str]:
    """Return the texts that are kept of SHORT and LONG."""
    query = "which is the longest?"
    if isinstance(adapter, Rank1Compressor):
        documents = [Document(page_content=text) for text in (SHORT, LONG)]
        return [kept.page_content for kept in adapter.compress_documents(documents, query)]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in (SHORT, LONG)]
    return [kept.get_content() for kept in adapter.postprocess_nodes(nodes, query_str=query)]


def is_closed(rank1: Rank1) -> bool:
    try:
        rank1.judge("query", [])
    except Rank1Error as error:
        assert "closed" in str(error)
        return True
    return False
