"""The threshold's picture in every run; sliders where a person runs the notebook, and the picture that they change."""

import sys

import pytest
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

from kdhelpers.tests.conftest import ENVIRONMENT

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

widgets.threshold_slider(split, maps, scores, 0.5, save=asked.append)
print("asked", asked)
"""

TEXTS = """
strip, *images = widgets.picture(split, maps, scores, 0.5).axes
print([label.get_text() for label in strip.get_yticklabels()])
for axis in images[3:5]:
    print(axis.title.get_text().splitlines(), axis.title.get_color() == figures.ANOMALOUS)
"""


@pytest.fixture(scope="module")
def kernel():
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager.start_kernel(env=ENVIRONMENT)
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
    """The content of each output, and what was printed."""
    printed = "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")
    return [message["content"] for message in messages if message["msg_type"] == "display_data"], printed


def test_unattended_runs_show_the_picture_alone_with_its_words(kernel):
    run(kernel, "from kdhelpers.reporting import figures\nfigures.use_style()", attended=False)
    (picture,), printed = shown(run(kernel, CODE, attended=False))
    words = "the threshold, and the images nearest to it"
    assert picture["data"]["text/plain"] == words and picture["metadata"]["image/png"] == {"alt": words}
    assert printed == "asked [2, 3, 4, 5, 6, 7, 8, 9]\n"  # those nearest to 0.5, four on either side
    _, printed = shown(run(kernel, TEXTS, attended=False))
    assert printed.splitlines() == [
        "['good: 0 of 6 above', 'bad: 3 of 3 above', 'unlabeled: 3 of 3 above']",
        "['good', '0.4545'] False",  # in black
        "['dent', '0.5455'] True",
    ]


@pytest.mark.slow
def test_attended_runs_show_sliders_that_change_the_picture(kernel):
    pytest.importorskip("ipywidgets")
    messages = run(kernel, CODE, attended=True)
    types = [set(output["data"]) for output in shown(messages)[0]]
    assert sum("image/png" in one for one in types) == 2  # the picture, and the one below the sliders
    assert sum("application/vnd.jupyter.widget-view+json" in one for one in types) == 2
    opened = {
        message["content"]["data"]["state"]["_model_name"]: message["content"]["comm_id"]
        for message in messages
        if message["msg_type"] == "comm_open"
    }

    def move(name, value):
        """The picture that is drawn then."""
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        kernel.shell_channel.send(kernel.session.msg("comm_msg", {"comm_id": opened[name], "data": data}))
        while (message := kernel.get_iopub_msg(timeout=60))["msg_type"] != "display_data":
            pass
        return message["content"]["data"]["image/png"]

    last = move("IntSliderModel", 12)
    assert shown(run(kernel, "print(asked[-1])", attended=True))[1] == "0\n"  # the lowest score is the first one's
    assert last != move("FloatSliderModel", 0.25)
    click = {"method": "custom", "content": {"event": "click"}}
    kernel.shell_channel.send(kernel.session.msg("comm_msg", {"comm_id": opened["ButtonModel"], "data": click}))
    assert shown(run(kernel, "print(asked[-1])", attended=True))[1] == "0.25\n"  # saved
