"""A TCP proxy that can end every connection in the middle of what it carries."""

import asyncio
import threading

from harness.ports import free_port
from harness.waiting import DEADLINE_S


class Proxy:
    """Forwards a loopback port to another. Each of `cuts` ends all connections after that many more bytes down."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.cuts: list[int] = []
        self.made = 0
        self.cut_count = 0
        self._target = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._ready.set()
        await self._stopping.wait()
        server.close()
        self._cut()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self.made += 1
        self._writers |= {writer, up_writer}
        await asyncio.gather(self._pipe(reader, up_writer, down=False), self._pipe(up_reader, writer, down=True))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        try:
            while data := await reader.read(16384):
                if down and self.cuts:
                    self.cuts[0] -= len(data)
                    if self.cuts[0] < 0:
                        writer.write(data[: self.cuts.pop(0)])
                        await writer.drain()
                        self.cut_count += 1
                        self._cut()
                        return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
