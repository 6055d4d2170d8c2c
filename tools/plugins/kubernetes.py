"""Stand-in for Pulumi's resource plugin `kubernetes`, on a real API server and the real helm.

Serves the provider, `kubernetes:helm.sh/v3:Release`, and every single object
`kubernetes:<group>/<version>:<Kind>`, custom resources included, by server-side apply.
kubernetes_await.py says what an apply waits for. Not served, and refused by name: Patch and List
resources, charts, kustomizations and YAML files as resources, functions, client-side apply,
rendering to a folder, exec and auth-provider sign-in.

Where it knowingly differs from the release plugin:
- an object that exists and was applied under this very URN before is taken up again rather than
  refused (the state of an interrupted `up` is lost, its objects are not);
- a release that an interrupted run left pending is repaired;
- a chart repository that can't be reached is a warning in preview, not an error.
"""

from __future__ import annotations

from tools.plugins.base import CheckFailures, Difference, Failure, Handler, Provider, Request, main
from tools.plugins.kubernetes_access import AccessError
from tools.plugins.kubernetes_cluster import Configuration, access_of, configured, flag
from tools.plugins.kubernetes_object import ObjectHandler, SecretHandler
from tools.plugins.kubernetes_objects import TokenError, parse_token
from tools.plugins.kubernetes_release import ReleaseHandler
from tools.plugins.values import UNKNOWN, Properties, contains_unknown

RELEASE = "kubernetes:helm.sh/v3:Release"
_REFUSED_SETTINGS = {
    "renderYamlToDirectory": "rendering to a folder",
    "alwaysRender": "rendering to a folder",
}


class KubernetesProvider(Provider):
    """The provider resource and the way to its handlers."""

    def __init__(self) -> None:
        super().__init__("kubernetes", {})
        self._configuration = Configuration()
        self._release = ReleaseHandler(self._configuration)
        self._object = ObjectHandler(self._configuration)
        self._secret = SecretHandler(self._configuration)

    def handler(self, token: str) -> Handler:
        if token == RELEASE:
            return self._release
        try:
            kind = parse_token(token)
        except TokenError as error:
            raise Failure(str(error)) from None
        return self._secret if kind == ("v1", "Secret") else self._object

    def check_configuration(self, request: Request) -> Properties:
        failures = [
            (name, f"{what} is not served by this stand-in for Pulumi's kubernetes plugin")
            for name, what in _REFUSED_SETTINGS.items()
            if request.inputs.get(name)
        ]
        apply = request.inputs.get("enableServerSideApply")
        if apply is not None and apply is not UNKNOWN and not flag(apply):
            reason = (
                "client-side apply is not served by this stand-in for Pulumi's kubernetes plugin"
            )
            failures.append(("enableServerSideApply", reason))
        if failures:
            raise CheckFailures(*failures)
        return request.inputs

    def diff_configuration(self, request: Request) -> Difference:
        """Another cluster replaces the provider and all that is in it; other changes update."""
        difference = super().diff_configuration(request)
        old, new = request.old_inputs, request.inputs
        if "clusterIdentifier" in difference.paths:
            difference.replaces = ["clusterIdentifier"]
        elif not new.get("clusterIdentifier") and _another_server(old, new):
            difference.replaces = ["kubeconfig"]
        return difference

    def configure(self, inputs: Properties) -> None:
        self._configuration.cluster = configured(inputs)


def _another_server(old: Properties, new: Properties) -> bool:
    if contains_unknown(old) or contains_unknown(new):
        return False
    try:
        return access_of(old).server != access_of(new).server
    except AccessError:
        # What can't be read can't be told apart.
        return False


def run() -> None:
    """Start the plugin."""
    main("kubernetes", "", KubernetesProvider())


if __name__ == "__main__":
    run()
