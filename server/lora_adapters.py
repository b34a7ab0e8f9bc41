"""The LoRA adapters that requests can name as their model: loaded, used, unloaded.

An adapter that is unloaded or replaced keeps its place in the engine until the requests that use
it have ended.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from server.engine import AdapterRefused, Engine, EngineDead, LoraAdapter
from server.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from server.lora_files import copy_adapter, find_folder
from server.run_folder import RunFolder
from server.settings import EngineSettings

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loaded:
    """`source` is the path that it was asked for by."""

    adapter: LoraAdapter
    source: str
    num_users: int = 0
    is_unloaded: bool = False


class LoraAdapters:
    """Those of one engine. To be used from one event loop."""

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._ids = count(1)
        self._by_name: dict[str, _Loaded] = {}
        self._loading = asyncio.Lock()
        self._removing: set[asyncio.Task[None]] = set()
        self._folder: RunFolder | None = None

    @property
    def can_load(self) -> bool:
        """Whether clients may load and unload adapters."""
        return self._settings.lora_dir is not None

    def sources(self) -> dict[str, str]:
        """The paths that adapters were loaded from, by their names."""
        return {name: loaded.source for name, loaded in self._by_name.items()}

    def check_model(self, name: str) -> None:
        """Raises: ModelNotFound unless it is the name of the model or of an adapter."""
        served = self._engine.model_info.name
        if name != served and name not in self._by_name:
            more = ", or one of its adapters (`/v1/models`)" if self._by_name else ""
            raise ModelNotFound(
                f"the model served here is `{served}`{more}", "model_not_found", "model"
            )

    @contextmanager
    def using(self, name: str) -> Iterator[LoraAdapter | None]:
        """The adapter of that name, which stays in the engine meanwhile; None for the model itself.

        Raises: ModelNotFound.
        """
        self.check_model(name)
        loaded = self._by_name.get(name)
        if loaded is None:
            yield None
            return
        loaded.num_users += 1
        try:
            yield loaded.adapter
        finally:
            loaded.num_users -= 1
            self._remove_unused(loaded)

    async def load_configured(self) -> None:
        """Those of the settings. Raises: RuntimeError naming the one that cannot be loaded."""
        for module in self._settings.lora_modules:
            name, _, path = module.partition("=")
            try:
                await self._load(name, Path(path).name, Path(path), None, replaces=False)
            except (AdapterRefused, Conflict) as error:
                raise RuntimeError(f"engine.lora_modules: {name}: {error}") from error

    async def load(self, name: str, path: str, *, replaces: bool) -> None:
        """Load an adapter from below `lora_dir`.

        Args:
            replaces: an adapter of that name, if there is one, for further requests.
        Raises: InvalidRequest, Conflict.
        """
        root = self._settings.lora_dir
        assert root is not None
        try:
            folder = await asyncio.to_thread(find_folder, root, path)
            await self._load(name, path, folder, root, replaces=replaces)
        except AdapterRefused as error:
            message = f"`lora_path`: {error}"
            raise InvalidRequest(message, "invalid_adapter", "lora_path") from error

    def unload(self, name: str) -> None:
        """Raises: NotFound."""
        loaded = self._by_name.pop(name, None)
        if loaded is None:
            raise NotFound("no adapter of this name is loaded", "adapter_not_found", "lora_name")
        self._unload(loaded)

    async def close(self) -> None:
        """After the engine has ended."""
        for task in self._removing:
            task.cancel()
        await asyncio.gather(*self._removing, return_exceptions=True)
        if self._folder is not None:
            self._folder.cleanup()

    async def _load(
        self, name: str, source: str, folder: Path, root: Path | None, *, replaces: bool
    ) -> None:
        async with self._loading:
            self._check_room(name, replaces)
            adapter = await self._add(name, folder, root)
            replaced = self._by_name.pop(name, None)  # it may have been unloaded meanwhile
            self._by_name[name] = _Loaded(adapter, source)
            if replaced is not None:
                self._unload(replaced)
        logger.info("adapter %s is loaded", name)

    def _check_room(self, name: str, replaces: bool) -> None:
        if name == self._engine.model_info.name:
            raise Conflict("this is the model's own name", "name_taken", "lora_name")
        if name in self._by_name:
            if not replaces:
                raise Conflict(
                    "an adapter of this name is loaded; `load_inplace` replaces it",
                    "name_taken",
                    "lora_name",
                )
            return
        limit = self._settings.max_cpu_loras
        if len(self._by_name) >= limit:
            raise Conflict(
                f"{len(self._by_name)} adapters are loaded; `engine.max_cpu_loras` allows {limit}",
                "too_many_adapters",
            )

    async def _add(self, name: str, folder: Path, root: Path | None) -> LoraAdapter:
        number = next(self._ids)
        copy = self._copy_folder(number)
        try:
            await asyncio.to_thread(copy.mkdir, parents=True)
            checked = await asyncio.to_thread(
                copy_adapter,
                folder,
                copy,
                self._engine.model_info.lora_targets,
                self._settings.max_lora_rank,
                root,
            )
            adapter = LoraAdapter(number, name, checked.digest, checked.has_tower)
            await self._engine.add_lora(adapter, copy)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        return adapter

    def _copy_folder(self, number: int) -> Path:
        if self._folder is None:
            self._folder = RunFolder()
        return self._folder.path / str(number)

    def _unload(self, loaded: _Loaded) -> None:
        loaded.is_unloaded = True
        self._remove_unused(loaded)

    def _remove_unused(self, loaded: _Loaded) -> None:
        if not loaded.is_unloaded or loaded.num_users:
            return
        task = asyncio.create_task(self._remove(loaded.adapter))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, adapter: LoraAdapter) -> None:
        with suppress(EngineDead):
            await self._engine.remove_lora(adapter.lora_int_id)
        copy = self._copy_folder(adapter.lora_int_id)
        await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
        logger.info("adapter %s is unloaded", adapter.name)
