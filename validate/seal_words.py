"""What stands beside a report in its bundle, how it is checked, and what each tier of reproducibility promises.

None of it is a figure: the signature covers the report, so the report cannot know what becomes of it.
"""

BESIDE: dict[str, tuple[str, str]] = {
    "manifest.json": (
        "Manifest",
        "Every other file with its SHA-256 and size, how each package is loaded, what it asks of a machine, the release"
        " number, and the tier of each file.",
    ),
    "chain.json": (
        "Chain of digests",
        "Every stage from the source model to the packages, each naming what it was given and what it made.",
    ),
    "bom.cdx.json": (
        "Bill of materials",
        "CycloneDX: source model, packages with a model card, data sets, and the wheels that the build called.",
    ),
    "provenance.slsa.json": (
        "Provenance",
        "SLSA: what was asked for, and what it was made from with which tools.",
    ),
    "model.sig": (
        "Signature",
        "OpenSSF model signing, over every other file, this report and the manifest included. Missing where nobody"
        " signed.",
    ),
}

CHECKS: dict[str, str] = {
    "tapeout verify BUNDLE": (
        "Reads every file and says whether it is the one the manifest and the chain name, and whether the bundle is"
        " signed. One that nobody signed is accepted and called so: digests alone find accidents, not attackers."
    ),
    "tapeout verify BUNDLE --key release.pub.pem --strict": (
        "Refuses a bundle that this key did not sign. Get the key by another way than the bundle."
    ),
    "tapeout verify BUNDLE --source MODEL": "Refuses a bundle that was made from another model.",
    "tapeout verify BUNDLE --runs-here": "Ends with 3 unless a package of it fits this machine.",
}

TIERS: dict[str, str] = {
    "R0": "Built again anywhere, from the same inputs with the same tools: the same bytes.",
    "R1": "Built again on the same machine with the same tools: the same bytes. Another processor may round otherwise.",
    "R2": "Built again: other bytes, the same behaviour. A vendor's compiler wrote them.",
    "clock": "Holds measured times, so no two are alike: this report is one of these.",
}
