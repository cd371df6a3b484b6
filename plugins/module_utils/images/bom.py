# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The bill of materials of an image as CycloneDX JSON, by cyclonedx-python-lib: the stack's packages and the system's."""

from __future__ import annotations

from typing import Any, Mapping

try:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    AVAILABLE = True
except ImportError:
    AVAILABLE = False


def make(image: str, manifest: Mapping[str, Any], system: Mapping[str, str]) -> str:
    """The text of the document; components sorted by name."""
    bom = Bom()
    bom.metadata.component = Component(
        name=image.rpartition(":")[0],
        version=image.rpartition(":")[2],
        type=ComponentType.CONTAINER,
        bom_ref=image,
        properties=[Property(name="verl.baremetal:release", value=str(manifest["id"]))],
    )
    locked = {str(c.get("name")): c for c in manifest.get("components", [])}
    for name, package in sorted(manifest["packages"].items()):
        purl = PackageURL(type="pypi", name=name, version=package["version"])
        sums = locked.get(name, {}).get("sha256") or []
        bom.components.add(
            Component(
                name=name,
                version=package["version"],
                type=ComponentType.LIBRARY,
                purl=purl,
                bom_ref=str(purl),
                # Of several accepted files one was installed; only a single hash is certain.
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sums[0].replace("sha256:", ""))]
                if len(sums) == 1
                else [],
                properties=[
                    Property(name="verl.baremetal:layer", value=package["layer"]),
                    Property(name="verl.baremetal:record_sha256", value=package["record_sha256"]),
                ],
            )
        )
    cuda = manifest.get("cuda", {})
    if cuda.get("version"):
        bom.components.add(
            Component(name="cuda-toolkit", version=cuda["version"], type=ComponentType.LIBRARY, bom_ref="cuda-toolkit")
        )
    host = manifest.get("host", {})
    for name, version in sorted(system.items()):
        purl = PackageURL(type="deb", namespace=host.get("os") or None, name=name, version=version)
        bom.components.add(
            Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"
