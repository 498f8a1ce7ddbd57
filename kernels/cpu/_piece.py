"""How pieces of kernels are compiled: into code to be linked, without machine code of their own.

Numba makes machine code of whatever it compiles, and so of the two hundred pieces that it then
inlines into a kernel and compiles once more. That is a sixth of the time a kernel takes to compile.
"""

from __future__ import annotations

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder


class _NoEngine:
    """What has no machine code has no place in memory for its environment, which only printing
    would need, and raising with values that are computed: pieces may do neither."""

    @staticmethod
    def set_env(name, environment) -> None:
        pass


class _Linked(JITCodeLibrary):
    """Optimised, and then left at that."""

    codegen = _NoEngine

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0


class PieceCompiler(CompilerBase):
    """Numba's own passes; only the result goes elsewhere."""

    def define_pipelines(self):
        name = self.state.func_id.func_qualname
        self.state.library = _Linked(self.state.targetctx.codegen(), name)
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


PIECE = {"forceinline": True, "no_cfunc_wrapper": True, "pipeline_class": PieceCompiler}
"""How what is inlined into kernels is compiled."""
