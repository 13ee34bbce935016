# SPDX-License-Identifier: BSD-3-Clause
"""How CompressAI-Vision finds the codecs: Hydra imports every module of `hydra_plugins`.

setup.py installs this folder as hydra_plugins.vcm_plugin. In any other Hydra application it does
nothing.
"""

import logging
import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError


class VcmPluginSearchPath(SearchPathPlugin):
    """Adds cfg/compressai_vision to the configurations, and the codecs to the registry."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "compressai_vision" not in sys.modules:
            return
        from vcm_plugin import compressai_vision

        try:
            compressai_vision.register()
        except InputError as error:
            logging.getLogger("vcm_plugin").warning("vcm-plugin: %s", error)
            return
        search_path.append("vcm-plugin", f"file://{cfg_folder() / 'compressai_vision'}")
