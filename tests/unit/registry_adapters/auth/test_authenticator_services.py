"""Authentication at the large services, as hand-written transcripts of all requests and responses.

An unexpected request, an unexpected ``Authorization`` or any cookie fails the test (R-030, R-031, R-037).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import pytest

from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Basic, IdentityToken
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import Forbidden, ProtocolError, Unauthorized

if TYPE_CHECKING:
    from tests.unit.registry_adapters.auth.conftest import ExpectedRequest, OpenTranscript, ScriptedResponse

    Encode = Callable[[str], str]

BLOB = b"0123456789"
DIGEST = Digest.of(BLOB)
IMAGE = Digest.of(b"image")
HEAD = {"Content-Type": OCI_MANIFEST, "Content-Length": "5", "Docker-Content-Digest": str(IMAGE)}
REFUSED = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
V1 = Tag("v1")
TOKEN_GET = {"Accept": "application/json"}
TOKEN_POST = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}


def bearer(realm: str, service: str, scope: str = "", error: str = "") -> dict[str, str]:
    parts = [f'realm="{realm}"', f'service="{service}"']
    parts += [f'scope="{scope}"'] if scope else []
    parts += [f'error="{error}"'] if error else []
    return {"Www-Authenticate": f"Bearer {','.join(parts)}"}


class TestDockerHub:
    """The token server is another host, trusted for this registry; blobs are on a third host."""

    CHALLENGE = bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull")
    TOKEN = "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/alpine:pull"
    NAME = RepositoryName("library/alpine")

    def test_a_public_image_needs_an_anonymous_token(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        store = f"https://production.cloudfront.docker.com/registry-v2/{DIGEST.encoded}/data?Signature=s"
        reply = {"token": "eyJ.hub", "access_token": "eyJ.hub", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"}
        catalog = open_transcript(
            "registry-1.docker.io",
            expect("HEAD https://registry-1.docker.io/v2/library/alpine/manifests/v1"),
            respond(401, self.CHALLENGE),
            expect(f"GET {self.TOKEN}", headers=TOKEN_GET),
            respond(200, {"Content-Type": "application/json"}, json.dumps(reply).encode()),
            expect("HEAD https://registry-1.docker.io/v2/library/alpine/manifests/v1", "Bearer eyJ.hub"),
            respond(200, HEAD),
            expect(f"GET https://registry-1.docker.io/v2/library/alpine/blobs/{DIGEST}", "Bearer eyJ.hub"),
            respond(307, {"Location": store}),
            expect(f"GET {store}"),
            respond(200, {"Content-Length": "10"}, BLOB),
        )
        repository = catalog.repository(self.NAME)

        found = repository.manifests.resolve(V1)
        with repository.blobs.open(DIGEST) as reader:
            content = reader.read()

        assert found.digest == IMAGE
        assert content == BLOB

    def test_a_password_goes_to_the_token_server_only(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            "registry-1.docker.io",
            expect("HEAD https://registry-1.docker.io/v2/library/alpine/manifests/v1"),
            respond(401, self.CHALLENGE),
            expect(f"GET {self.TOKEN}", basic("someone:dckr_pat_x"), headers=TOKEN_GET),
            respond(200, {}, b'{"token": "eyJ.hub"}'),
            expect("HEAD https://registry-1.docker.io/v2/library/alpine/manifests/v1", "Bearer eyJ.hub"),
            respond(200, HEAD),
            auth=Basic("someone", "dckr_pat_x"),
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE

    def test_a_wrong_password_raises_unauthorized(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            "registry-1.docker.io",
            expect("HEAD https://registry-1.docker.io/v2/library/alpine/manifests/v1"),
            respond(401, self.CHALLENGE),
            expect(f"GET {self.TOKEN}", basic("someone:s3cret")),
            respond(401, {}, b'{"details":"incorrect username or password"}'),
            auth=Basic("someone", "s3cret"),
        )

        with pytest.raises(Unauthorized) as caught:
            catalog.repository(self.NAME).manifests.resolve(V1)

        assert "s3cret" not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"


class TestGitHub:
    """Public images need a token too; its lifetime is not stated."""

    NAME = RepositoryName("org/app")
    HEAD_LINE = "HEAD https://ghcr.io/v2/org/app/manifests/v1"
    CHALLENGE = bearer("https://ghcr.io/token", "ghcr.io", "repository:org/app:pull")

    def test_a_public_image_needs_an_anonymous_token(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        store = f"https://pkg-containers.githubusercontent.com/ghcr1/blobs/{DIGEST}?se=2026&sig=s"
        catalog = open_transcript(
            "ghcr.io",
            expect(self.HEAD_LINE),
            respond(401, self.CHALLENGE),
            expect("GET https://ghcr.io/token?service=ghcr.io&scope=repository:org/app:pull", headers=TOKEN_GET),
            respond(200, {}, b'{"token":"djE6b3JnL2FwcDox"}\n'),
            expect(self.HEAD_LINE, "Bearer djE6b3JnL2FwcDox"),
            respond(200, HEAD),
            expect(f"GET https://ghcr.io/v2/org/app/blobs/{DIGEST}", "Bearer djE6b3JnL2FwcDox"),
            respond(307, {"Location": store}),
            expect(f"GET {store}"),
            respond(200, {"Content-Length": "10"}, BLOB),
        )
        repository = catalog.repository(self.NAME)

        found = repository.manifests.resolve(V1)
        with repository.blobs.open(DIGEST) as reader:
            content = reader.read()

        assert found.digest == IMAGE
        assert content == BLOB

    def test_a_private_image_without_credentials_is_refused_by_the_token_server(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        catalog = open_transcript(
            "ghcr.io",
            expect(self.HEAD_LINE),
            respond(401, self.CHALLENGE),
            expect("GET https://ghcr.io/token?service=ghcr.io&scope=repository:org/app:pull"),
            respond(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'),
        )

        with pytest.raises(Unauthorized):
            catalog.repository(self.NAME).manifests.resolve(V1)

    def test_a_personal_access_token_without_the_permission_raises_forbidden(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            "ghcr.io",
            expect(self.HEAD_LINE),
            respond(401, self.CHALLENGE),
            expect("GET https://ghcr.io/token?service=ghcr.io&scope=repository:org/app:pull", basic("me:ghp_x")),
            respond(403, {}, b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'),
            auth=Basic("me", "ghp_x"),
        )

        with pytest.raises(Forbidden):
            catalog.repository(self.NAME).manifests.resolve(V1)


class TestElasticContainerRegistry:
    """The private registry accepts Basic from the user ``AWS``; the public one issues tokens for the scope ``aws``."""

    NAME = RepositoryName("app")
    HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

    def test_the_private_registry_gets_the_password_and_its_storage_does_not(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        store = f"https://prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com/{DIGEST.encoded}?X-Amz-Signature=s"
        value = basic("AWS:eyJwYXlsb2Fk")
        catalog = open_transcript(
            self.HOST,
            expect(f"HEAD https://{self.HOST}/v2/app/manifests/v1"),
            respond(401, {"Www-Authenticate": f'Basic realm="https://{self.HOST}/",service="ecr.amazonaws.com"'}),
            expect(f"HEAD https://{self.HOST}/v2/app/manifests/v1", value),
            respond(200, HEAD),
            expect(f"GET https://{self.HOST}/v2/app/blobs/{DIGEST}", value),
            respond(307, {"Location": store}),
            expect(f"GET {store}"),
            respond(200, {"Content-Length": "10"}, BLOB),
            auth=Basic("AWS", "eyJwYXlsb2Fk"),
        )
        repository = catalog.repository(self.NAME)

        found = repository.manifests.resolve(V1)
        with repository.blobs.open(DIGEST) as reader:
            content = reader.read()

        assert found.digest == IMAGE
        assert content == BLOB

    @pytest.mark.parametrize("auth", [None, Basic("AWS", "eyJwYXlsb2Fk")])
    def test_the_public_registry_sends_a_malformed_scope(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
        auth: Basic | None,
    ) -> None:
        """Its challenge says ``scope="aws"``; the scopes of the operation are requested."""
        catalog = open_transcript(
            "public.ecr.aws",
            expect("HEAD https://public.ecr.aws/v2/org/app/manifests/v1"),
            respond(401, bearer("https://public.ecr.aws/token/", "public.ecr.aws", "aws")),
            expect(
                "GET https://public.ecr.aws/token/?service=public.ecr.aws&scope=repository:org/app:pull",
                basic("AWS:eyJwYXlsb2Fk") if auth else None,
                headers=TOKEN_GET,
            ),
            respond(200, {}, b'{"token":"eyJ.ecr","expires_in":43200}'),
            expect("HEAD https://public.ecr.aws/v2/org/app/manifests/v1", "Bearer eyJ.ecr"),
            respond(200, HEAD),
            auth=auth,
        )

        assert catalog.repository(RepositoryName("org/app")).manifests.resolve(V1).digest == IMAGE


class TestArtifactRegistry:
    """Access tokens and service account keys are passwords of well-known users."""

    NAME = RepositoryName("project/repo/app")
    HOST = "europe-west3-docker.pkg.dev"

    @pytest.mark.parametrize(("user", "password"), [("oauth2accesstoken", "ya29.x"), ("_json_key", '{"type": "s"}')])
    def test_both_are_exchanged_for_a_token_at_the_registry(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
        user: str,
        password: str,
    ) -> None:
        scope = "repository:project/repo/app:pull"
        catalog = open_transcript(
            self.HOST,
            expect(f"HEAD https://{self.HOST}/v2/project/repo/app/manifests/v1"),
            respond(401, bearer(f"https://{self.HOST}/v2/token", self.HOST, scope)),
            expect(
                f"GET https://{self.HOST}/v2/token?service={self.HOST}&scope={scope}",
                basic(f"{user}:{password}"),
                headers=TOKEN_GET,
            ),
            respond(200, {}, b'{"expires_in":3599,"issued_at":"2026-01-01T00:00:00Z","token":"eyJ.gar"}'),
            expect(f"HEAD https://{self.HOST}/v2/project/repo/app/manifests/v1", "Bearer eyJ.gar"),
            respond(200, HEAD),
            auth=Basic(user, password),
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE


class TestAzure:
    """``az acr login`` stores an identity token with a user name of zeros."""

    NAME = RepositoryName("hello-world")
    HOST = "contoso.azurecr.io"
    NOBODY = "00000000-0000-0000-0000-000000000000"
    SCOPE = "repository:hello-world:pull"

    def test_an_identity_token_is_posted_to_the_token_server_only(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        """R-037."""
        store = "https://weumanaged.blob.core.windows.net/docker/registry/v2/blobs/data?sig=s"
        catalog = open_transcript(
            self.HOST,
            expect(f"HEAD https://{self.HOST}/v2/hello-world/manifests/v1"),
            respond(401, bearer(f"https://{self.HOST}/oauth2/token", self.HOST, self.SCOPE)),
            expect(
                f"POST https://{self.HOST}/oauth2/token",
                body=b"grant_type=refresh_token&refresh_token=eyJ.refresh&client_id=ociport"
                b"&service=contoso.azurecr.io&scope=repository%3Ahello-world%3Apull",
                headers=TOKEN_POST,
            ),
            respond(200, {}, b'{"access_token":"eyJ.access"}'),
            expect(f"HEAD https://{self.HOST}/v2/hello-world/manifests/v1", "Bearer eyJ.access"),
            respond(200, HEAD),
            expect(f"GET https://{self.HOST}/v2/hello-world/blobs/{DIGEST}", "Bearer eyJ.access"),
            respond(307, {"Location": store}),
            expect(f"GET {store}"),
            respond(200, {"Content-Length": "10"}, BLOB),
            auth=IdentityToken("eyJ.refresh", self.NOBODY),
        )
        repository = catalog.repository(self.NAME)

        found = repository.manifests.resolve(V1)
        with repository.blobs.open(DIGEST) as reader:
            content = reader.read()

        assert found.digest == IMAGE
        assert content == BLOB

    def test_the_identity_token_works_as_a_password_of_that_user(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            self.HOST,
            expect(f"HEAD https://{self.HOST}/v2/hello-world/manifests/v1"),
            respond(401, bearer(f"https://{self.HOST}/oauth2/token", self.HOST, self.SCOPE)),
            expect(
                f"GET https://{self.HOST}/oauth2/token?service={self.HOST}&scope={self.SCOPE}",
                basic(f"{self.NOBODY}:eyJ.refresh"),
            ),
            respond(200, {}, b'{"access_token":"eyJ.access"}'),
            expect(f"HEAD https://{self.HOST}/v2/hello-world/manifests/v1", "Bearer eyJ.access"),
            respond(200, HEAD),
            auth=Basic(self.NOBODY, "eyJ.refresh"),
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE


class TestQuay:
    """Its challenge names no scope; deleting requires ``push``."""

    NAME = RepositoryName("org/app")
    REALM = "https://quay.io/v2/auth"

    def test_a_robot_account_pulls(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            "quay.io",
            expect("HEAD https://quay.io/v2/org/app/manifests/v1"),
            respond(401, bearer(self.REALM, "quay.io")),
            expect(
                f"GET {self.REALM}?service=quay.io&scope=repository:org/app:pull",
                basic("org+robot:word"),
                headers=TOKEN_GET,
            ),
            respond(200, {}, b'{"token":"eyJ.quay"}'),
            expect("HEAD https://quay.io/v2/org/app/manifests/v1", "Bearer eyJ.quay"),
            respond(200, HEAD),
            auth=Basic("org+robot", "word"),
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE

    def test_deleting_requests_push(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        """R-037: the only write action that a challenge may add; ``delete`` is the greater permission."""
        line = "DELETE https://quay.io/v2/org/app/manifests/v1"
        wanting = bearer(self.REALM, "quay.io", "repository:org/app:pull,push", "insufficient_scope")
        catalog = open_transcript(
            "quay.io",
            expect(line),
            respond(401, bearer(self.REALM, "quay.io")),
            expect(f"GET {self.REALM}?service=quay.io&scope=repository:org/app:delete,pull", basic("org+robot:word")),
            respond(200, {}, b'{"token":"eyJ.pull"}'),
            expect(line, "Bearer eyJ.pull"),
            respond(401, wanting, REFUSED),
            expect(
                f"GET {self.REALM}?service=quay.io&scope=repository:org/app:delete,pull,push", basic("org+robot:word")
            ),
            respond(200, {}, b'{"token":"eyJ.push"}'),
            expect(line, "Bearer eyJ.push"),
            respond(202),
            auth=Basic("org+robot", "word"),
        )

        catalog.repository(self.NAME).manifests.untag(V1)


class TestHarbor:
    """It sets cookies, which are not kept, and answers an expired token with a Basic challenge."""

    NAME = RepositoryName("project/app")
    HOST = "harbor.example.com"
    LINE = f"HEAD https://{HOST}/v2/project/app/manifests/v1"
    TOKEN = f"GET https://{HOST}/service/token?service=harbor-registry&scope=repository:project/app:pull"
    COOKIE: ClassVar = {"Set-Cookie": "sid=8c2c4714; Path=/; HttpOnly"}

    def test_a_robot_account_pulls_without_cookies_and_replaces_its_expired_token(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        """R-030, R-031, R-038."""
        robot = basic("robot$project+ci:word")
        challenge = bearer(f"https://{self.HOST}/service/token", "harbor-registry", "repository:project/app:pull")
        catalog = open_transcript(
            self.HOST,
            expect(self.LINE),
            respond(401, {**challenge, **self.COOKIE}),
            expect(self.TOKEN, robot, headers=TOKEN_GET),
            respond(200, self.COOKIE, b'{"token":"eyJ.one","access_token":"","expires_in":1800,"issued_at":"2026"}'),
            expect(self.LINE, "Bearer eyJ.one"),
            respond(200, HEAD),
            expect(self.LINE, "Bearer eyJ.one"),
            respond(401, {"Www-Authenticate": 'Basic realm="harbor"', **self.COOKIE}),
            expect(self.TOKEN, robot, headers=TOKEN_GET),
            respond(200, self.COOKIE, b'{"token":"eyJ.two","expires_in":1800}'),
            expect(self.LINE, "Bearer eyJ.two"),
            respond(200, HEAD),
            auth=Basic("robot$project+ci", "word"),
        )
        manifests = catalog.repository(self.NAME).manifests

        first = manifests.resolve(V1)
        second = manifests.resolve(V1)

        assert first == second


class TestGitLab:
    """The token server is GitLab, on another host; for two repositories it issues a token for the last one."""

    NAME = RepositoryName("group/project")
    HOST = "registry.gitlab.com"
    REALM = "https://gitlab.com/jwt/auth"
    PUSH = "repository:group/project:pull,push"
    BASE = "repository:group/base:pull"
    TARGET = f"https://{HOST}/v2/group/project/blobs"
    TOKEN = f"GET {REALM}?service=container_registry"

    def test_a_deploy_token_is_sent_to_gitlab_and_not_to_the_registry(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        line = f"HEAD https://{self.HOST}/v2/group/project/manifests/v1"
        catalog = open_transcript(
            self.HOST,
            expect(line),
            respond(401, bearer(self.REALM, "container_registry", "repository:group/project:pull")),
            expect(
                f"{self.TOKEN}&scope=repository:group/project:pull",
                basic("gitlab+deploy-token-1:gldt-x"),
                headers=TOKEN_GET,
            ),
            respond(200, {}, b'{"token":"eyJ.lab"}'),
            expect(line, "Bearer eyJ.lab"),
            respond(200, HEAD),
            auth=Basic("gitlab+deploy-token-1", "gldt-x"),
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE

    def test_a_mount_without_a_token_for_both_becomes_an_upload(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        mount = f"POST {self.TARGET}/uploads/?mount={str(DIGEST).replace(':', '%3A')}&from=group%2Fbase"
        wanting = bearer(self.REALM, "container_registry", f"{self.PUSH} {self.BASE}", "insufficient_scope")
        user = basic("me:glpat-x")
        catalog = open_transcript(
            self.HOST,
            expect(mount),
            respond(401, bearer(self.REALM, "container_registry", f"{self.PUSH} {self.BASE}"), REFUSED),
            expect(f"{self.TOKEN}&scope={self.BASE}&scope={self.PUSH}", user),
            respond(200, {}, b'{"token":"eyJ.last"}'),
            expect(mount, "Bearer eyJ.last"),
            respond(401, wanting, REFUSED),
            expect(f"POST {self.TARGET}/uploads/", "Bearer eyJ.last"),
            respond(202, {"Location": "/v2/group/project/blobs/uploads/1?_state=x"}),
            expect(f"PUT {self.TARGET}/uploads/1?_state=x&digest={DIGEST}", "Bearer eyJ.last", BLOB),
            respond(201, {"Location": f"/v2/group/project/blobs/{DIGEST}"}),
            auth=Basic("me", "glpat-x"),
        )
        blobs = catalog.repository(self.NAME).blobs

        mounted = blobs.mount(DIGEST, RepositoryName("group/base"))
        blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))

        assert not mounted

    def test_a_token_server_that_refuses_two_repositories_issues_one_for_the_upload(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        mount = f"POST {self.TARGET}/uploads/?mount={str(DIGEST).replace(':', '%3A')}&from=group%2Fbase"
        both = bearer(self.REALM, "container_registry", f"{self.PUSH} {self.BASE}")
        user = basic("me:glpat-x")
        catalog = open_transcript(
            self.HOST,
            expect(mount),
            respond(401, both, REFUSED),
            expect(f"{self.TOKEN}&scope={self.BASE}&scope={self.PUSH}", user),
            respond(403, {}, b'{"errors":[{"code":"DENIED","message":"access forbidden"}]}'),
            expect(f"{self.TOKEN}&scope={self.PUSH}", user),
            respond(200, {}, b'{"token":"eyJ.one"}'),
            expect(mount, "Bearer eyJ.one"),
            respond(401, {"Www-Authenticate": both["Www-Authenticate"] + ',error="insufficient_scope"'}, REFUSED),
            expect(f"POST {self.TARGET}/uploads/", "Bearer eyJ.one"),
            respond(202, {"Location": "/v2/group/project/blobs/uploads/1"}),
            expect(f"PUT {self.TARGET}/uploads/1?digest={DIGEST}", "Bearer eyJ.one", BLOB),
            respond(201, {"Location": f"/v2/group/project/blobs/{DIGEST}"}),
            auth=Basic("me", "glpat-x"),
        )
        blobs = catalog.repository(self.NAME).blobs

        mounted = blobs.mount(DIGEST, RepositoryName("group/base"))
        blobs.put(DIGEST, len(BLOB), BytesSource(BLOB))

        assert not mounted


class TestOthers:
    """Behaviour of smaller registries."""

    NAME = RepositoryName("app")
    HOST = "registry.example.com"
    LINE = f"HEAD https://{HOST}/v2/app/manifests/v1"
    BLOB_LINE = f"GET https://{HOST}/v2/app/blobs/{DIGEST}"
    USER = Basic("user", "s3cret")

    def test_a_registry_without_challenges_gets_no_credentials(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        catalog = open_transcript(self.HOST, expect(self.LINE), respond(200, HEAD), auth=self.USER)

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE

    def test_schemes_of_windows_are_named_in_the_error(
        self, open_transcript: OpenTranscript, expect: type[ExpectedRequest], respond: type[ScriptedResponse]
    ) -> None:
        catalog = open_transcript(
            self.HOST,
            expect(self.LINE),
            respond(401, {"WWW-Authenticate": "Negotiate, NTLM"}),
            auth=self.USER,
        )

        with pytest.raises(Unauthorized, match="negotiate, ntlm") as caught:
            catalog.repository(self.NAME).manifests.resolve(V1)

        assert caught.value.transport is not None
        assert caught.value.transport.status == 401
        assert caught.value.reference

    @pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="https://registry.example.com/token"'])
    def test_a_challenge_from_the_target_of_a_redirect_is_not_answered(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        challenge: str,
    ) -> None:
        """R-031."""
        store = "https://store.example.net/blob"
        catalog = open_transcript(
            self.HOST,
            expect(self.BLOB_LINE),
            respond(307, {"Location": store}),
            expect(f"GET {store}"),
            respond(401, {"WWW-Authenticate": challenge}, REFUSED),
            auth=self.USER,
        )

        with pytest.raises(Unauthorized):
            catalog.repository(self.NAME).blobs.open(DIGEST)

    def test_at_most_two_challenges_are_answered(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        """R-038."""
        challenge = bearer(f"https://{self.HOST}/token", "r", "repository:app:pull", "insufficient_scope")
        token = expect(f"GET https://{self.HOST}/token?service=r&scope=repository:app:pull", basic("user:s3cret"))
        catalog = open_transcript(
            self.HOST,
            expect(self.LINE),
            respond(401, challenge),
            token,
            respond(200, {}, b'{"token":"one"}'),
            expect(self.LINE, "Bearer one"),
            respond(401, challenge),
            token,
            respond(200, {}, b'{"token":"two"}'),
            expect(self.LINE, "Bearer two"),
            respond(401, challenge),
            auth=self.USER,
        )

        with pytest.raises(Unauthorized):
            catalog.repository(self.NAME).manifests.resolve(V1)

    def test_a_password_is_posted_if_get_is_unsupported(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        catalog = open_transcript(
            self.HOST,
            expect(self.LINE),
            respond(401, bearer(f"https://{self.HOST}/token", "r")),
            expect(f"GET https://{self.HOST}/token?service=r&scope=repository:app:pull", basic("user:s3cret")),
            respond(405, {"Allow": "POST"}),
            expect(
                f"POST https://{self.HOST}/token",
                body=b"grant_type=password&username=user&password=s3cret&client_id=ociport"
                b"&service=r&scope=repository%3Aapp%3Apull",
                headers=TOKEN_POST,
            ),
            respond(200, {}, b'{"access_token":"abc","token_type":"Bearer","expires_in":60}'),
            expect(self.LINE, "Bearer abc"),
            respond(200, HEAD),
            auth=self.USER,
        )

        assert catalog.repository(self.NAME).manifests.resolve(V1).digest == IMAGE

    def test_a_token_server_that_redirects_gets_no_second_request(
        self,
        open_transcript: OpenTranscript,
        expect: type[ExpectedRequest],
        respond: type[ScriptedResponse],
        basic: Encode,
    ) -> None:
        """R-036."""
        catalog = open_transcript(
            self.HOST,
            expect(self.LINE),
            respond(401, bearer(f"https://{self.HOST}/token", "r")),
            expect(f"GET https://{self.HOST}/token?service=r&scope=repository:app:pull", basic("user:s3cret")),
            respond(307, {"Location": "https://evil.example/token"}),
            auth=self.USER,
        )

        with pytest.raises(ProtocolError) as caught:
            catalog.repository(self.NAME).manifests.resolve(V1)

        assert "s3cret" not in repr(caught.value)
