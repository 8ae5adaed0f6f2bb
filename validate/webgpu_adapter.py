"""Find something for the WebGPU execution provider to run on: this machine's GPU, or a Vulkan driver in software."""

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from targets.errors import DeviceMissing
from targets.probe import Available, Missing
from targets.status import Status

PROVIDER = "WebGpuExecutionProvider"
LIBRARY = "onnxruntime_ep_webgpu"

# The provider's own switch: without it a machine without GPU lists no WebGPU device.
ALLOW_SOFTWARE = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
DRIVERS = "VK_ICD_FILENAMES"  # of the Vulkan loader
OURS = "TAPEOUT_VULKAN_DRIVER"

# Debian's chromium-common brings SwiftShader and a loader with it. Mesa's lavapipe does too from release 25 on; Dawn
# finds no adapter in that of 22.3.
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
LOADERS = ("libvulkan.so.1", "/usr/lib/chromium/libvulkan.so.1")
PLUGIN = "pip install onnxruntime-ep-webgpu==0.4.0"
INSTALL = "apt install chromium-common brings SwiftShader, a Vulkan driver in software"


@dataclass(frozen=True)
class Adapter:
    """What a session runs on.

    Attributes:
        device: ONNX Runtime's handle.
        driver: of the software driver; None for a GPU.
    """

    device: Any
    driver: Path | None

    @property
    def evidence(self) -> Status | None:
        """The provider's kernels on another device than the product's, or the device itself."""
        return Status.EMULATED if self.driver else None


def describe_provider() -> Available | Missing:
    """Whether the WebGPU provider is installed; nothing is started."""
    if importlib.util.find_spec("onnxruntime_ep_webgpu") is None:
        return Missing("ONNX Runtime's WebGPU provider is not installed", PLUGIN)
    return Available(version("onnxruntime-ep-webgpu"))


def describe_software_driver() -> Available | Missing:
    """Whether a Vulkan driver in software is here, for a machine without a GPU; nothing is started."""
    driver = software_driver()
    return Available(str(driver)) if driver.is_file() else Missing("no Vulkan driver in software is here", INSTALL)


@cache
def find_adapter() -> Adapter:
    """The adapter of this process; a provider can be registered once only.

    Raises:
        DeviceMissing: no plugin, no Vulkan loader, or neither a GPU nor a software driver.
    """
    try:
        import onnxruntime
        import onnxruntime_ep_webgpu
    except ImportError as error:
        raise DeviceMissing(f"ONNX Runtime's WebGPU provider is not installed ({error})", PLUGIN) from error
    library = onnxruntime_ep_webgpu.get_library_path()
    onnxruntime.register_execution_provider_library(LIBRARY, library)
    devices, driver = webgpu_devices(onnxruntime), None
    if not devices:  # the provider looks at its switch as it is registered
        onnxruntime.unregister_execution_provider_library(LIBRARY)
        driver = prepare_software()
        onnxruntime.register_execution_provider_library(LIBRARY, library)
        devices = webgpu_devices(onnxruntime)
    if not devices:
        onnxruntime.unregister_execution_provider_library(LIBRARY)
        raise DeviceMissing("ONNX Runtime lists no device for its WebGPU provider", INSTALL)
    return Adapter(devices[0], driver)


@cache
def register_with_genai() -> None:
    """Make the provider known to ONNX Runtime GenAI, which looks it up under its own name.

    Raises:
        DeviceMissing: as `find_adapter`.
    """
    find_adapter()
    import onnxruntime_ep_webgpu
    import onnxruntime_genai

    onnxruntime_genai.register_execution_provider_library(PROVIDER, onnxruntime_ep_webgpu.get_library_path())


def webgpu_devices(onnxruntime: Any) -> list[Any]:
    """The devices that ONNX Runtime offers the provider."""
    return [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]


def software_driver() -> Path:
    """The description of the Vulkan driver to use without a GPU, whether it is there or not."""
    return Path(os.environ.get(OURS, SWIFTSHADER))


def prepare_software() -> Path:
    """Point Vulkan at a software driver; the driver's description.

    Raises:
        DeviceMissing: there is no driver, or no loader.
    """
    driver = software_driver()
    if not driver.is_file():
        raise DeviceMissing("this machine has no GPU, and no Vulkan driver in software", INSTALL)
    for loader in LOADERS:
        try:
            ctypes.CDLL(loader)
        except OSError:
            continue
        break
    else:
        raise DeviceMissing("this machine has no Vulkan loader (libvulkan.so.1)", "apt install libvulkan1")
    os.environ[DRIVERS] = str(driver)
    os.environ[ALLOW_SOFTWARE] = "1"
    return driver
