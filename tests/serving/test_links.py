"""The pages behind a proxy that serves them under a path of its own."""

import asyncio
import re
from urllib.parse import urljoin

LINK = re.compile(r'(?:href|src)="([^"]+)"|(?:fetch|call)\((?:"[A-Z]+", )?"([^"]+)"')


def test_pages_stay_under_the_path_they_are_served_under(serve):
    """A proxy hands `/shop/x` on as `/x`; the browser resolves links against the page's address."""

    async def scenario():
        async with serve() as (client, _):
            for page in ("/", "/docs", "/assets/app.js", "/assets/docs.js"):
                text = (await client.get(page)).text
                links = [a or b for a, b in LINK.findall(text)]
                for link in links:
                    # What a script asks for is relative to the page it is in, not to the script.
                    at = urljoin("http://host/shop" + page.replace("/assets/", "/"), link)
                    outside = link.startswith(("https:", "data:"))
                    assert outside or at.startswith("http://host/shop/"), (page, link)
                    if page in ("/", "/docs") and not outside:
                        assert (await client.get(at.removeprefix("http://host/shop"))).is_success
                assert links, page

    asyncio.run(scenario())
