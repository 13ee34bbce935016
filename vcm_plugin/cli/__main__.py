# SPDX-License-Identifier: BSD-3-Clause
"""`python -m vcm_plugin.cli`: the command `vcm-plugin`."""

import sys

from vcm_plugin.cli.main import main

sys.exit(main())
