"""lit_vpo: teach video LLMs to prefer the answer that the video supports.

Importing the package is cheap: it brings the version and the guard below, nothing else.
"""

from lit_vpo._torchvision_guard import install as _install_torchvision_guard

__version__ = "0.1.0"

_install_torchvision_guard()
