"""The child that asks the runtimes for their devices: `python -m tapeout.device_list` prints a JSON array."""

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

# Plugin execution providers: the wheel's module and the name it is registered under.
PLUGINS = {"onnxruntime_qnn": "QNNExecutionProvider", "onnxruntime_ep_webgpu": "WebGpuExecutionProvider"}

SIMULATOR = ("QNNExecutionProvider", "CPU")


def openvino_devices() -> Iterator[dict[str, str]]:
    """Devices of OpenVINO's plugins, by full name."""
    if find_spec("openvino") is None:
        return
    import openvino

    core = openvino.Core()
    for device in core.available_devices:
        yield {"runtime": "OpenVINO", "device": device, "name": str(core.get_property(device, "FULL_DEVICE_NAME"))}


def onnxruntime_devices() -> Iterator[dict[str, str]]:
    """Devices of ONNX Runtime's execution providers, its plugins' included."""
    if find_spec("onnxruntime") is None:
        return
    import onnxruntime

    for module, name in PLUGINS.items():
        if find_spec(module) is not None:
            plugin = __import__(module)
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    for device in onnxruntime.get_ep_devices():
        kind = device.device.type.name
        # On x86-64 the QNN plugin lists the CPU: it is HTP's compiler and its simulator.
        name = f"{device.ep_vendor}, simulator" if (device.ep_name, kind) == SIMULATOR else device.ep_vendor
        yield {"runtime": "ONNX Runtime", "device": f"{device.ep_name} on {kind}", "name": name or kind}


def main() -> None:
    """Print every device."""
    sys.stdout.write(json.dumps([*openvino_devices(), *onnxruntime_devices()]) + "\n")


if __name__ == "__main__":
    main()
    # Ending here skips the plugins' static destructors, which have been seen to crash after the work is done.
    sys.stdout.flush()
    os._exit(0)
