"""What both adapters are made from: a `Rank1` object, or the settings to make one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from rank1_integrations.config import Options, check_cut
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.reranker import Rank1

_PLACE = {"backend", "base_url", "model", "api_key", "engine_args"}
_MADE_WITH = {"rank1", *_PLACE, *Options.model_fields}


class Rank1Settings(Options):
    """Where the model runs, how passages are judged and which of them are kept.

    Give either `rank1` or the rest; `top_n` and `score_threshold` go with both.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True
    )

    rank1: Rank1 | None = Field(default=None, exclude=True, repr=False)
    """A reranker to share with other chains."""

    backend: Literal["server", "vllm", "transformers", "demo"] = "server"
    """Where the model runs: behind an OpenAI-compatible server, in this process on vLLM or
    transformers, or in this process as the small demonstration model."""

    base_url: str | None = None
    """The server's address, for instance "http://localhost:8000/v1"."""

    model: str | None = None
    """Server: the name that the model is served under, None for the only one. vllm and
    transformers: a checkpoint's name on the hub, or its folder."""

    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """The server's key; None for `RANK1_API_KEY` or else `OPENAI_API_KEY` of the environment.
    Never part of a serialized or pickled form."""

    engine_args: dict[str, Any] | None = None
    """vllm: fields of vLLM's `AsyncEngineArgs`, such as {"max_model_len": 16000}."""

    top_n: int | None = None
    """How many passages to keep at most; None for all."""

    score_threshold: float | None = None
    """Keep passages with score >= threshold, before `top_n`; None for all."""

    _rank1: Rank1 = PrivateAttr()

    def _check(self) -> None:
        check_cut(self.top_n, self.score_threshold)
        given = self.model_fields_set
        if self.rank1 is not None:
            both = sorted(given & (_MADE_WITH - {"rank1"}))
            if both:
                raise ConfigurationError(
                    f"rank1= already decides {', '.join(both)}: give either rank1= or settings"
                )
        elif self.backend == "server" and self.base_url is None:
            raise ConfigurationError(
                "say where the model runs: base_url='http://localhost:8000/v1' for a server, "
                "backend='vllm' or 'transformers' with model=, or backend='demo'"
            )
        elif self.backend in ("vllm", "transformers") and self.model is None:
            raise ConfigurationError(
                f"backend={self.backend!r} needs model=, for instance 'jhu-clsp/rank1-0.5b'"
            )
        if self.backend != "server" and (self.base_url or self.api_key):
            raise ConfigurationError(f"backend={self.backend!r} takes no base_url and no api_key")
        if self.backend != "vllm" and self.engine_args is not None:
            raise ConfigurationError("engine_args is for backend='vllm'")
        if self.backend == "demo" and self.model is not None:
            raise ConfigurationError("backend='demo' takes no model: it is the one in the package")

    def model_post_init(self, context: Any, /) -> None:
        """Make the reranker, so that a mistake shows here and not at the first query."""
        super().model_post_init(context)
        self._check()
        self._rank1 = self.rank1 or self._make_rank1()

    def __setattr__(self, name: str, value: Any) -> None:
        """Change `top_n` or `score_threshold`; what the reranker was made with stays."""
        if name in _MADE_WITH:
            raise ConfigurationError(
                f"{name} can't be changed any more: make a new {type(self).__name__}"
            )
        super().__setattr__(name, value)

    def close(self) -> None:
        """Free what the reranker holds; one given as `rank1` is its owner's to close."""
        if self.rank1 is None:
            self._rank1.close()

    async def aclose(self) -> None:
        """`close`, awaited."""
        if self.rank1 is None:
            await self._rank1.aclose()

    def __getstate__(self) -> dict[Any, Any]:
        """For pickling: the settings alone, without key, cache and callback."""
        if self.rank1 is not None:
            self.rank1.__reduce__()
        state = super().__getstate__()
        left_behind = dict.fromkeys(("api_key", "cache", "on_judgments"))
        state["__dict__"] = {**state["__dict__"], **left_behind}
        private = {**(state["__pydantic_private__"] or {})}
        private.pop("_rank1", None)
        state["__pydantic_private__"] = private
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._rank1 = self._make_rank1()

    def _make_rank1(self) -> Rank1:
        # The demonstration model has defaults of its own, which a default here must not hide.
        options = {
            name: getattr(self, name)
            for name, field in Options.model_fields.items()
            if getattr(self, name) != field.default
        }
        match self.backend:
            case "demo":
                return Rank1.demo(**options)
            case "vllm":
                assert self.model is not None
                return Rank1.from_vllm(self.model, engine_args=self.engine_args, **options)
            case "transformers":
                assert self.model is not None
                return Rank1.from_transformers(self.model, **options)
        assert self.base_url is not None
        return Rank1.from_server(
            self.base_url,
            model=self.model,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            **options,
        )
