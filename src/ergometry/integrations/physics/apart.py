"""Computing apart from the script: under none of its modes, and none of ours."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch._C._dynamo.eval_frame import set_eval_frame
from torch.utils._python_dispatch import _disable_current_modes


class apart:  # noqa: N801 - used as a function is
    """Computes as outside of the script's contexts: no dispatch or function mode sees it, and no autocast rounds it.

    What is computed so is neither counted nor recorded as the script's, takes no default device over, and is not
    compiled where the script is. A context manager, of less than a microsecond where the script has no such context.
    """

    __slots__ = ("_compiling", "_contexts")

    def __enter__(self) -> None:
        self._compiling = set_eval_frame(None)
        contexts: list[Any] = []
        if torch._C._len_torch_function_stack():
            contexts.append(torch._C.DisableTorchFunction())
        if torch._C._is_any_autocast_enabled():
            contexts.append(torch._C._DisableAutocast())
        if torch._C._len_torch_dispatch_stack():
            contexts.append(_disable_current_modes())
        self._contexts = contexts
        for context in contexts:
            context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for context in reversed(self._contexts):
            context.__exit__(kind, error, trace)
        set_eval_frame(self._compiling)
