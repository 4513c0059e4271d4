"""Built-in texts: one set to check precisions with, one to time them."""

from __future__ import annotations

from typing import Final

_PROSE: Final = (
    "The harbour was quiet that morning; two fishing boats had come in before dawn and the crews mended "
    "nets on the quay. Nobody spoke of the storm, although everyone had slept badly and the lighthouse man "
    "had counted eleven ships passing where he usually saw three. "
)
_CODE: Final = """async def fetch(session: Session, url: str, retries: int = 3) -> bytes:
    for attempt in range(retries):
        try:
            async with session.get(url, timeout=10.0) as response:
                return await response.read()
        except TimeoutError:
            await asyncio.sleep(2 ** attempt)
    raise RuntimeError(f"gave up on {url} after {retries} attempts")
"""

#: Short, long, over the window, code, other scripts, numbers, noise: what agents remember.
REFERENCE_TEXTS: Final[tuple[str, ...]] = (
    "",
    "ok",
    "Thanks!",
    "What did Caroline say about the adoption agency?",
    "Hey Mel! Good to see you! How have you been?",
    "I'm swamped with the kids & work, but last Saturday I ran a charity race for mental health.",
    "The deployment failed at 14:32 UTC because the readiness probe timed out after 30 seconds.",
    "Please remember that I am allergic to peanuts and prefer window seats on long flights.",
    "We decided to use PostgreSQL 16 instead of MySQL, since we need partial indexes and LISTEN/NOTIFY.",
    "3.14159 2.71828 1.41421 1.61803 0.57721 42 1000000 -17 6.022e23",
    "2023-05-08T13:56:00Z ERROR [worker-7] java.lang.NullPointerException at com.example.Main(Main.java:118)",
    "https://example.org/a/b?c=d&e=f#g and mailto:someone@example.org",
    "SELECT u.id, COUNT(*) FROM users u JOIN orders o ON o.user_id = u.id GROUP BY u.id HAVING COUNT(*) > 5;",
    '{"tool": "search", "arguments": {"query": "cheap flights to Lisbon", "limit": 10}, "status": "ok"}',
    _CODE,
    "Größere Änderungen müssen vorher mit dem Betriebsrat abgestimmt werden, auch über Ostern.",
    "Мы договорились встретиться в пятницу у входа в музей.",
    "来週の会議は火曜日の午後三時に変更されました。",
    "🎉🎉 we shipped it!! 🚀 congrats everyone 👏",
    "naïve café résumé — “quoted” … ½ ± 5 µm",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    _PROSE,
    _PROSE * 4,
    (_PROSE + _CODE) * 6,
)


def timing_texts(count: int) -> list[str]:
    """Texts of some 40 tokens, a chat turn, cut from the samples; all different."""
    words = " ".join(text for text in REFERENCE_TEXTS[3:10]).split() + _PROSE.split()
    turned = words + words
    return [" ".join(turned[k % len(words) : k % len(words) + 16 + k % 32]) for k in range(0, count * 7, 7)]
