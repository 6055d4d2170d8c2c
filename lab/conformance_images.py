"""The images that Kubernetes' conformance specs run, in a registry with those of every lab.

`python -m lab.conformance_images is-done` (exit status 0 or 1) and `… install`. The names are those
of test/utils/image/manifest.go in Kubernetes; what differs from the originals is in the files
images/NAME.Containerfile: Debian's packages in place of Alpine's, whatever the tag says.
"""

from __future__ import annotations

import sys

from lab import image
from lab.registry import NAMES, Images
from tools.pins import CONFORMANCE_IMAGE_TOOLS, IMAGE_TOOLS

IMAGES = Images(
    "registry-conformance",
    {
        **NAMES,
        "busybox": "e2e-test-images/busybox:1.37.0-1",
        "etcd": "etcd:3.6.4-0",
        "httpd": "e2e-test-images/httpd:2.4.38-4",
        "httpd-new": "e2e-test-images/httpd:2.4.39-4",
        "jessie-dnsutils": "e2e-test-images/jessie-dnsutils:1.7",
        "nautilus": "e2e-test-images/nautilus:1.7",
        "nginx": "e2e-test-images/nginx:1.14-4",
        "nonewprivs": "e2e-test-images/nonewprivs:1.3",
        "sample-apiserver": "e2e-test-images/sample-apiserver:1.29.2",
    },
    (*IMAGE_TOOLS, *CONFORMANCE_IMAGE_TOOLS),
)

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(image.main(arguments, "lab.conformance_images", IMAGES.is_done, IMAGES.install))
