"""The same with pydcm, which stores by itself what comes."""

import os
import sys

from pydcm.dimse import AE
from pydcm.sop_class import CTImageStorage, Verification

ae = AE(ae_title="BENCH")
ae.add_supported_context(CTImageStorage)
ae.add_supported_context(Verification)
ae.start_server(("127.0.0.1", int(sys.argv[1])), store_dir=os.environ["BENCH_FOLDER"])
