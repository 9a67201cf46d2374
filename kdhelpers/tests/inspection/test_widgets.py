"""The threshold's picture everywhere; sliders where a person sits at the notebook, and the picture that they change."""

import sys

import pytest
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

from kdhelpers.paths import ROOT

CODE = """
import numpy as np, torch
from kdhelpers.inspection import widgets
from kdhelpers.data import Split
from kdhelpers.data.images import Images

scores = np.linspace(0, 1, 12)
test = Images(torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8))
kinds, names = ["good"] * 6 + ["dent"] * 6, [f"{i}.png" for i in range(12)]
split = Split("folder", "x", test, test, np.repeat([0, 1, 2], [6, 3, 3]), None, kinds, names, "")
asked = []

def maps(index):
    asked.extend(index.tolist())
    return np.random.default_rng(0).random((len(index), 32, 32), np.float32)

widgets.threshold_slider(split, maps, scores, 0.5)
print("asked", asked)
"""


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, code, attended):
    """The messages that the code leads to."""
    found = []
    client.execute_interactive(
        code, allow_stdin=attended, timeout=120, output_hook=found.append, stdin_hook=lambda _: None
    )
    errors = [message["content"]["evalue"] for message in found if message["msg_type"] == "error"]
    assert not errors, errors
    return found


def shown(messages):
    return [set(message["content"]["data"]) for message in messages if message["msg_type"] == "display_data"]


def said(messages):
    return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")


def test_the_picture_alone_where_nobody_is_there(kernel):
    messages = run(kernel, CODE, attended=False)
    (picture,) = shown(messages)
    assert "image/png" in picture
    assert said(messages) == "asked [2, 3, 4, 5, 6, 7, 8, 9]\n"  # those nearest to 0.5, four on either side


def test_the_picture_is_kept_with_its_words(kernel):
    run(kernel, "from kdhelpers.reporting import figures\nfigures.use_style()", attended=False)
    (message,) = [one for one in run(kernel, CODE, attended=False) if one["msg_type"] == "display_data"]
    words = "the threshold, and the images nearest to it"
    assert message["content"]["data"]["text/plain"] == words
    assert message["content"]["metadata"]["image/png"] == {"alt": words}


@pytest.mark.slow
def test_sliders_where_somebody_is_and_they_change_the_picture(kernel):
    pytest.importorskip("ipywidgets")
    messages = run(kernel, CODE, attended=True)
    picture, sliders = shown(messages)
    assert "image/png" in picture and "application/vnd.jupyter.widget-view+json" in sliders
    opened = {
        message["content"]["data"]["state"]["_model_name"]: message["content"]["comm_id"]
        for message in messages
        if message["msg_type"] == "comm_open"
    }

    def move(name, value):
        """The picture that there is then."""
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        kernel.shell_channel.send(kernel.session.msg("comm_msg", {"comm_id": opened[name], "data": data}))
        while True:
            message = kernel.get_iopub_msg(timeout=60)
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == opened["ImageModel"]:
                return bytes(message["buffers"][0])

    last = move("IntSliderModel", 12)
    assert said(run(kernel, "print(asked[-1])", attended=True)) == "0\n"  # the twelfth highest score is the first one's
    lower = move("FloatSliderModel", 0.25)
    assert last[:4] == lower[:4] == b"\x89PNG" and last != lower


@pytest.mark.slow
def test_without_ipywidgets_it_says_how_to_get_them(kernel):
    messages = run(kernel, "import sys\nsys.modules['ipywidgets'] = None\n" + CODE, attended=True)
    (picture,) = shown(messages)
    assert "image/png" in picture and "pip install ipywidgets" in said(messages)
