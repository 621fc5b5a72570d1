"""Test the tests: plant one bug at a time in a copy of the sources, and check that the tests of that code fail.

Run it before each release: ``python tests/planted_bugs.py``, or with names of groups for a part of it:
``python tests/planted_bugs.py memory layout``. The exit code is 1 if no test notices a bug, or if a bug cannot be
planted because the code has changed: then update its entry here.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
LONGEST_RUN = 300
# Seconds for one test; a bug that makes a test wait for ever is caught after them.
LONGEST_TEST = 20


class Bug(NamedTuple):
    """A change of one line: the file below the folder of the target, the correct text, and the wrong one."""

    file: str
    old: str
    new: str


class Target(NamedTuple):
    """A folder of sources, the tests that must fail, the bugs to plant, and a program that the tests need.

    The tests are files and folders below ``tests``, separated by spaces.
    """

    folder: str
    tests: str
    bugs: tuple[Bug, ...]
    program: str = ""


MEMORY = (
    Bug("blobs.py", 'content = b"".join(verified_chunks(source, digest, size))', "content = source.open().read()"),
    Bug("blobs.py", "raise BlobNotFound(", "raise KeyError("),
    Bug("blobs.py", "BytesSource(self._find(digest)).open(start)", "BytesSource(self._find(digest)).open()"),
    Bug("blobs.py", "self._state.get_or_create(self._name).blobs[digest] = source.blobs[digest]", "pass"),
    Bug("blobs.py", "source is None or digest not in source.blobs", "source is None"),
    Bug("blobs.py", "self._state.get_or_create(self._name).blobs.pop(digest)", "pass"),
    Bug("manifests.py", "bytes(manifest.content), manifest.algorithm)", "bytes(manifest.content).strip())"),
    Bug("manifests.py", "bytes(manifest.content), manifest.algorithm)", "bytes(manifest.content))"),
    Bug("manifests.py", "checked = manifest.checked()", "checked = manifest"),
    Bug("manifests.py", "tag: target for tag, target in contents.tags.items() if target != digest", "**contents.tags"),
    Bug("manifests.py", "contents.referrers[removed.subject.digest].discard(digest)", "pass"),
    Bug("manifests.py", "if subject is not None:", "if subject is not None and subject.digest in contents.manifests:"),
    Bug("manifests.py", "tags = sorted(self._contents().tags)", "tags = sorted(self._contents().tags, key=str.lower)"),
    Bug("manifests.py", "if after is None or tag > after", "if after is None or tag >= after"),
    Bug("manifests.py", "in filter_by_artifact_type((entry for entry in found if entry is not None), artifact_type):",
        "in (entry for entry in found if entry is not None):"),
    Bug("manifests.py", "self._contents(tag).tags.pop(tag, None)", "self._contents(tag).manifests.pop(tag, None)"),
    Bug("catalog.py", "if after is None or name > after", "if True"),
    Bug("state.py", "return sorted(self._contents)", "return list(self._contents)"),
    Bug("state.py", "return self._contents.get(name)", "return self._contents.setdefault(name, RepositoryContents())"),
)  # fmt: skip

LAYOUT = (
    Bug("blobs.py", "    verifier.finish()", "    verifier = None"),
    Bug("blobs.py", "file.seek(start)", "file.seek(0)"),
    Bug("blobs.py", "return target.link(source, digest.encoded, status)", "return True"),
    Bug("blobs.py", "return blob_dir is not None and blob_dir.remove(digest.encoded)",
        "return blob_dir is not None"),
    Bug("blobs.py", "file.commit(digest.encoded)", "file.commit(digest.encoded[:-1])"),
    Bug("index.py", "return sorted(tag for tag in found if tag is not None)",
        "return sorted((tag for tag in found if tag is not None), key=str.lower)"),
    Bug("index.py", "return self._with_entries(self._without_names([name]))",
        "return self._with_entries([entry for entry in self._entries if not name.is_carried_by(entry)])"),
    Bug("index.py", "entries = self._without_names(names, keeping=manifest.digest)",
        "entries = [entry for entry in self._entries if not any(name.is_carried_by(entry) for name in names)]"),
    Bug("manifests.py", "for tag in sorted(set(tags))]", "for tag in sorted(set(tags))[:1]]"),
    Bug("manifests.py", "checked = manifest.checked(expected=manifest.media_type)", "checked = manifest"),
    Bug("manifests.py", "index = index.without_manifest(digest, opened.repository)", "pass"),
    Bug("manifests.py", "if manifest.subject is None or manifest.subject.digest != subject:",
        "if manifest.subject is None:"),
    Bug("manifests.py", "in filter_by_artifact_type(listed, artifact_type):", "in listed:"),
    Bug("manifests.py", "            with opened.layout.locked(directory):", "            if True:"),
    Bug("repository_layouts.py", "raise missing or absent or self.not_found()",
        "raise missing or absent or NotFound()"),
    Bug("catalog.py", "name, is_directory = heapq.heappop(names)", "name, is_directory = names.pop()"),
    Bug("catalog.py", "after is None or name > after", "after is None or name >= after"),
)  # fmt: skip

LINKS = (
    Bug("links.py", "os.open(part, READ_FLAGS | NO_FOLLOW | NO_BLOCK, dir", "os.open(part, READ_FLAGS | NO_BLOCK, dir"),
    Bug("links.py", "if parts is None:", "if parts is None and False:"),
    Bug("links.py", "if len(opened) == 1:\n                    raise", "if False:\n                    raise"),
    Bug("links.py", "if links > _MAX_LINKS:", "if links > 10 * _MAX_LINKS:"),
    Bug("links.py", "_close(opened, keep=1)", "pass"),
    Bug("blobs.py", "    if file.is_linked:\n        return True\n", ""),
    Bug("directory.py", "read_only and self.root.follow_symlinks and", "self.root.follow_symlinks and"),
    Bug("directory.py", "read_only and self.root.follow_symlinks and", "read_only and"),
    Bug("layout.py", "if blobs.is_linked and not read_only:", "if False:"),
)  # fmt: skip

LAYOUT_NAMES = (
    Bug("index.py", 'written = f"{style.path}:{name}"', 'written = f"{repository}:{name}"'),
    Bug("index.py", "key = CONTAINERD_NAME if style.is_containerd else REF_NAME", "key = REF_NAME"),
    Bug("index.py", "if self._is_same(name) or name.written == self._name.written:",
        "if name.written == self._name.written:"),
    Bug("index.py", "if _annotations(entry).get(REF_NAME) == self._name.written:", "if False:"),
    Bug("index.py", "or (repository and name.written and name.repository != repository)", ""),
    Bug("index.py", "or (repository and name.written and name.repository", "or (repository and name.repository"),
    Bug("manifests.py", "if len(index.entries) == count:", "if False:"),
    Bug("catalog.py", "if not is_tolerant or not name:", "if not is_tolerant:"),
    Bug("repository_layouts.py", "        outcomes = self.each(attempt)", "        outcomes = [self.first(attempt)]"),
    Bug("manifests.py", "if index.find(digest) is None:\n                    remove_blob",
        "if True:\n                    remove_blob"),
    Bug("blobs.py", "if opened.repository:", "if False:"),
    Bug("repository_layouts.py", "with layout.open(is_marked=bool(repository)) as directory:",
        "with layout.open() as directory:"),
    Bug("repository_layouts.py", "for alias in aliases(repository)", "for alias in (repository,)"),
    Bug("catalog.py", "heapq.heappush(names, (name / child, False))", "child.below(name)"),
)  # fmt: skip

MIRRORED_NAMES = (
    Bug("names.py", "yield self._lost_name(image, is_ambiguous=counts[image.name] > 1)", "continue"),
    Bug("names.py", "if image.name and counts[image.name] == 1 else None", "if image.name else None"),
    Bug("names.py", "tags=() if image is not None else (name,)", "tags=(name,)"),
    Bug("mirror.py", "if source.names is not None and isinstance(error, IntegrityError):", "if False:"),
    Bug("names.py", "if name is not None and not _can_have(self._target, name):", "if False:"),
    Bug("names.py", "if not full.endswith(relative):", "if True:"),
    Bug("names.py", "written = {} if _exists(self._target) else", "written ="),
    Bug("names.py", "if digest not in parts and not self._has_subject(digest)", "if True"),
    Bug("names.py", "except (InvalidName, Unsupported):\n        return False",
        "except (InvalidName, Unsupported):\n        return True"),
    Bug("mirror.py", "for name in (*named, *self._meant_repositories()):", "for name in named:"),
    Bug("mirror.py", "            yield from entries.other_tasks()\n", ""),
)  # fmt: skip

IMAGE_NAMES = (
    Bug("image_names.py", "for name in (_whole_reference(text), _containerd_name(full), _tag(text)):",
        "for name in (_containerd_name(full), _whole_reference(text), _tag(text)):"),
    Bug("image_names.py", 'if name is not None and (not digest or name.written.partition("@")[2] in ("", digest)):',
        "if name is not None:"),
    Bug("image_names.py", "if not at and not (colon and \"/\" not in tag) and not is_host(name.partition(\"/\")[0]):",
        "if False:"),
)  # fmt: skip

HTTP = (
    Bug("blobs.py", 'f"bytes={start}-"', 'f"bytes={start + 1}-"'),
    Bug("blobs.py", "return response.status == 201 and", "return response.status == 200 and"),
    Bug("blobs.py", '("from", from_repository)', '("from", self._endpoint.name)'),
    Bug("uploads.py", "body = Body(self._source, start, end - start)", "body = Body(self._source, 0, end - start)"),
    Bug("manifests.py", "put(manifest, tags[0]), tags[1:]", "put(manifest, tags[0]), []"),
    Bug("manifests.py", "self._requests.delete(tag)", "self._requests.delete(self._requests.get(tag).digest)"),
    Bug("manifests.py", "self._requests.delete(digest)", "self._subject_with_list(digest)"),
    Bug("manifest_requests.py", "                algorithm = reference.algorithm",
        '                algorithm = "sha256"'),
    Bug("manifest_requests.py", 'headers={"Content-Type": manifest.media_type}',
        'headers={"Content-Type": MANIFESTS[0]}'),
    Bug("manifest_requests.py", 'claimed=headers.get("Content-Type")', "claimed=MANIFESTS[0]"),
    Bug("paging.py", "if target is None:", "if True:"),
    Bug("error_mapping.py", '"blob": BlobNotFound,', '"blob": ImageNotFound,'),
    Bug("error_mapping.py", '"NAME_UNKNOWN": RepositoryNotFound,', '"NAME_UNKNOWN": ImageNotFound,'),
)  # fmt: skip

LISTS = (
    Bug("paging.py", "                if number == 1:\n                    raise\n", "                raise\n"),
    Bug("headers.py", "if not link.relations", "if None in link.relations"),
    Bug("headers.py", "if not all(map(_RELATION.fullmatch, types)):", "if False:"),
    Bug("paging.py", "            if is_after_empty:", "            if True:"),
    Bug("paging.py", "is_after_empty and beginning and", "False and"),
    Bug("paging.py", "            origin = session.origin\n", "            origin = page_origin\n"),
    Bug("paging.py", " and not _is_trusted(session, origin)", ""),
    Bug("paging.py", "        return local\n", "        return target\n"),
    Bug("paging.py", "UrlPurpose.REDIRECT if origin == page_origin else UrlPurpose.LINK", "UrlPurpose.REDIRECT"),
    Bug("paging.py", "return not is_weaker and any(", "return any("),
    Bug("paging.py", "            after = size = None", "            return"),
)  # fmt: skip

# What only a registry shows that keeps no lists of referrers, and insists on the parts of a manifest.
ELSEWHERE = (
    Bug("referrers.py", "filter_by_artifact_type(self._list_all(subject, artifact_type), artifact_type)",
        "self._list_all(subject, artifact_type)"),
    Bug("referrers.py", "with self._support_cache.list_lock(self._endpoint.name, subject):", "if True:"),
    Bug("manifests.py", "self._referrers.add(manifest.subject.digest, entry)", "self._referrers.mark_api_available()"),
    Bug("manifests.py", "self._referrers.remove(subject, digest)", "self._referrers.mark_api_available()"),
    Bug("error_mapping.py", '"MANIFEST_BLOB_UNKNOWN": BlobNotFound,', ""),
)  # fmt: skip

KEYCHAINS = (
    Bug("registry_names.py", 'if port in ("443", "80") else', "if port else"),
    Bug("docker_config.py", "colon, password = decoded.partition(", "colon, password = decoded.rpartition("),
    Bug("docker_config.py", "if parsed is not None and parsed[0] in names:", "if parsed is not None:"),
)

PATTERNS = (
    Bug("registry_names.py", "port == pattern_port", "True"),
    Bug("registry_names.py", "and len(wanted) == len(parts)", "and len(wanted) <= len(parts)"),
    Bug("docker_config.py", "if path in paths and matches(", "if matches("),
    Bug("docker_config.py", "matches(pattern, names[0])", "any(matches(pattern, name) for name in names)"),
    Bug("docker_config.py", "if parsed is not None), reverse=True)", "if parsed is not None))"),
    Bug("docker_config.py", 'unpadded + b"=" * (-len(unpadded) % 4)', "packed"),
    Bug("docker_config.py", "for pattern, path, key in _patterns_of(auths) if self._patterns else ():",
        "for pattern, path, key in _patterns_of(auths):"),
)  # fmt: skip

SECRETS = (Bug("auth.py", "    def __reduce__(", "    def _reduce("),)

TOKEN_SERVERS = (
    Bug("session.py", "self.check_url(UrlPurpose.REALM, url)", "AllowedUrl(Origin.of_url(url), self.origin)"),
)

AUTH = (
    Bug("authenticator.py", "if value == rejected:", "if False:"),
    Bug(
        "authorization.py",
        "return value if offers_bearer and value != rejected else None",
        "return value if offers_bearer else None",
    ),
)

SINGLE_FLIGHT = (
    Bug("single_flight.py", "return not flight.locked", "return True"),
    Bug("single_flight.py", "raise copy.copy(flight.failure)", "return True"),
)

TOKENS = (Bug("tokens.py", "return all(", "return any("), Bug("tokens.py", "other == key and ", ""))

TRANSFERS = (
    Bug("blobs.py", "first != start", "first < start"),
    Bug("blobs.py", "(self._size is not None and size != self._size)", "False"),
    Bug("blobs.py", "(self._etag and etag and etag != self._etag)", "False"),
    Bug("blobs.py", "if start < self._size:", "if False:"),
)

REQUESTS = (
    Bug(
        "session.py",
        "state.authorization is not None and allowed.credentials == self.origin:",
        "state.authorization is not None:",
    ),
    Bug("session.py", "            or state.responder.credentials != self.origin", "            or False"),
    Bug("session.py", "if has_credentials and allowed.credentials != self.origin:", "if False:"),
    Bug("session.py", "or state.challenges_answered >= _MAX_CHALLENGES", "or False"),
    Bug("sender.py", "if stale > _MAX_STALE or not state.may_repeat(Failure.STALE):", "if stale > _MAX_STALE:"),
    Bug("sender.py", "headers = {**headers, **SINGLE_USE}", "headers = dict(headers)"),
    Bug("retry.py", "if repeatable or cause is Failure.UNREACHED", "if True or cause is Failure.UNREACHED"),
)

HIDDEN = (
    Bug("session.py", "_HIDING: Final = frozenset({403, 404})", "_HIDING: Final = frozenset({403})"),
    Bug("session.py", "in _HIDING and state.authorization is None", "in _HIDING"),
    Bug("session.py", "            state.is_refused = True\n", ""),
    Bug("session.py", "            if self._api_challenges is None:\n", "            if True:\n"),
    Bug("session.py", "401 or state.responder.credentials != self.origin:", "401:"),
    Bug(
        "session.py",
        "        if response.status in TRANSIENT:\n            # The",
        "        if False:\n            # The",
    ),
    Bug("session.py", " and state.request.target != _API", ""),
    Bug("session.py", "except ConfigError as error:", "except UnicodeError as error:"),
)

SERVER = (
    Bug("app.py", "        response.headers += INERT_HEADERS\n", ""),
    Bug("cheroot_server.py", "            *INERT_HEADERS,\n", ""),
    Bug(
        "cheroot_server.py", "for name, value in inert if name.lower() not in present]", "for name, value in inert[:0]]"
    ),
    Bug("manifests.py", "    if not may_be_manifest(manifest.media_type):", "    if False:"),
    Bug("manifests.py", "if content_type and not may_be_manifest(content_type):", "if False:"),
    Bug("chunked_body.py", "if not 0 <= size <= _MAX_SIZE:", "if size < 0:"),
    Bug("chunked_body.py", '!= b"\\r\\n":\n                raise', '== b"":\n                raise'),
)

REDIRECTS = (
    Bug("session.py", "purpose if is_read else UrlPurpose.WRITE", "purpose"),
    Bug("session.py", "not is_read and status not in _KEEPING_REDIRECTS", "False"),
)

CONNECTIONS = (
    Bug("transport/connection.py", "            self.is_reusable = False", "            pass"),
    Bug("transport/connection.py", "            self.will_close = True", "            pass"),
    Bug("transport/connection.py", "if self.chunk_left == 0 and data", "if False and data"),
    Bug("transport/connection.py", "response.is_reusable and is_complete", "response.is_reusable"),
    Bug("transport/failures.py", "if self._is_reused and causes.have(http", "if False and causes.have(http"),
)

FAILURES = (
    Bug("transport/connection.py", "        self.phase = Phase.CONNECT", "        pass"),
    Bug("transport/connection.py", "self.phase = Phase.PROXY_TLS if is_secure_proxy else Phase.TLS", "pass"),
    Bug("transport/connection.py", "        self.phase = Phase.TUNNEL", "        pass"),
    Bug("transport/failures.py", "and not self.have(*_CLOSED)", ""),
    Bug("transport/failures.py", "if proxy is None else proxy.scheme", ""),
    Bug("transport/connection.py", 'skip_host="Host" in headers', "skip_host=False"),
    Bug("transport/tls.py", "_PROXY_NOT_TLS if reason == _NOT_TLS else ", ""),
)

ERRORS = (
    Bug("error_mapping.py", "402, 403, 412, 423, 451", "403"),
    Bug("error_mapping.py", '"TAG_INVALID": Forbidden', '"TAG_INVALID": InvalidName'),
    Bug("error_mapping.py", "bool(_POLICY.search(_without_names(text, request)))", "False"),
    Bug("error_mapping.py", "_POLICY.search(_without_names(text, request))", "_POLICY.search(text)"),
    Bug("error_mapping.py", "{404, 413, 415, 416}", "{404, 413, 415}"),
    Bug("error_mapping.py", "text = error_text(content)", 'text = ""'),
)
UPLOADS = (
    Bug("transport/urllib3_transport.py", "pool.new() if is_single else pool.take()", "pool.take()"),
    Bug("transport/urllib3_transport.py", "response.is_reusable and not is_single", "response.is_reusable"),
    Bug("uploads.py", "            self._restarts_left += 1", "            pass"),
    Bug("uploads.py", "(is_stale or not plan.split())", "not plan.split()"),
    Bug("uploads.py", "if closing and self._was_resumed and isinstance", "if False and isinstance"),
    Bug("uploads.py", "if self._source.position < end:", "if False:"),
    Bug("uploads.py", "if end == self._size or not goes_on:", "if not goes_on:"),
    Bug("uploads.py", "            if not goes_on:", "            if False:"),
    Bug("uploads.py", "if (response.status != 201 or not was_sent) and", "if False and"),
    Bug("uploads.py", "if committed > sent:", "if False:"),
    Bug("uploads.py", "not (closing and plan.is_monolithic):", "not closing:"),
    Bug("blobs.py", "is_doubtful = essence(headers.get(\"Content-Type\")) in _PAGES", "is_doubtful = False"),
    Bug("blobs.py", "is_doubtful = claim != digest", "is_doubtful = False"),
    Bug("blobs.py", "VerifyingReader(response.reader, digest, None, reference=self._endpoint.at(digest))",
        "response.reader"),
    Bug("blobs.py", "and _names_no_other(response.headers, digest)", ""),
    Bug("blobs.py", "is_retried=not self._mounts_fail,", "is_retried=True,"),
    Bug("blobs.py", "                self._mounts_fail = False\n", ""),
    Bug("uploads.py", ' or error.code == "BLOB_UPLOAD_UNKNOWN"', ""),
    Bug("uploads.py", "_SESSION_GONE: Final = frozenset({404, 410})", "_SESSION_GONE: Final = frozenset({404})"),
    Bug("manifest_requests.py", "return claim == Digest.of(content, claim.algorithm)", "return True"),
    Bug("manifest_requests.py", "MANIFEST_LIMIT).content == content", "MANIFEST_LIMIT).content != b\"\""),
    Bug("manifest_requests.py", "if response.status != 201 and not self._is_stored(content, reference):", "if False:"),
)  # fmt: skip

POLICY = (
    Bug("url_policy.py", "UrlPurpose.LINK: _same_origin_rule(CrossOriginRule.TRUSTED)",
        "UrlPurpose.LINK: _same_origin_rule(CrossOriginRule.REACHABLE)"),
    Bug("url_policy.py", "Zone.PUBLIC: frozenset({Zone.PUBLIC}),", "Zone.PUBLIC: frozenset(Zone),"),
    Bug("url_policy.py", "cross_origin=cross_origin, credentials=CredentialRule.SAME_ORIGIN",
        "cross_origin=cross_origin, credentials=CredentialRule.ALWAYS"),
    Bug("url_policy.py", 'registry.scheme == "https" and target.scheme == "http"', "False"),
    Bug("url_policy.py", 'registry.host.endswith(_PRIVATE_NAMES) and "." in parent', '"." in parent'),
    Bug("url_policy.py", 'registry.host.endswith(_PRIVATE_NAMES) and "." in parent',
        "registry.host.endswith(_PRIVATE_NAMES)"),
    Bug("url_policy.py", "parent in (target.host, target.host.partition(\".\")[2])", "target.host.endswith(parent)"),
    Bug("url_policy.py", "self.port in (0, target.port)", "True"),
    Bug("url_policy.py", 'self.scheme in ("", target.scheme)', "True"),
)  # fmt: skip

ARCHIVE = (
    Bug("writer.py", "if source is None or digest not in source.blobs:", "if source is None:"),
    Bug(
        "writer.py", "(tag, descriptor.digest) for tag in tags)", "(tag, descriptor.digest) for tag in list(tags)[:1])"
    ),
    Bug("writer.py", "checked = manifest.checked()", 'checked = manifest.checked().with_algorithm("sha256")'),
    Bug("file_io.py", "return _FileSliceReader(self, start)", "return _FileSliceReader(self, 0)"),
    Bug("file_io.py", "min(size, CHUNK_SIZE, max(0, self._slice.size - self._position))", "min(size, CHUNK_SIZE)"),
    Bug("catalog.py", "in filter_by_artifact_type(found, artifact_type):", "in found:"),
    Bug(
        "writer.py",
        "with self._write_lock:\n            if self._is_closed:",
        "if True:\n            if self._is_closed:",
    ),
)

EXPORTS = (
    Bug("writer.py", "            _check_loadable(image, blobs, reference)\n", ""),
    Bug("writer.py", "elif has_config(each) and _has_image_layers(each.image):", "elif has_config(each):"),
    Bug("writer.py", "if each.is_index:\n            pending +=", "if each is manifest:\n            pending +="),
)

LAYOUT_ENTRIES = (
    Bug("manifest.py", '"manifests": [_repaired(entry) for entry in entries]', '"manifests": entries'),
    Bug("manifest.py", "for name, value in named if isinstance(value, str)", "for name, value in named"),
    Bug("media_types.py", "return not media_type or is_manifest(media_type)", "return is_manifest(media_type)"),
)  # fmt: skip

REFERENCES = (
    Bug("references.py", "return escaped(image.name, _DESCRIBED) or image.descriptor.digest",
        "return image.name or image.descriptor.digest"),
    Bug("references.py", "return name if digest is None else Tag(text)", "return name"),
    Bug("references.py", "if expected not in (None, digest):", "if False:"),
    Bug("references.py", "        if digest.startswith(_DIGESTS):", "        if False:"),
    Bug("references.py", 'is_name = isinstance(parsed, Digest) and not parsed.verifiable and "@" not in text',
        "is_name = False"),
    Bug("references.py", "if digest is None or len(digest.encoded) < _SHORTEST_HASH:", "if digest is None:"),
)  # fmt: skip

CANCELLATION = (
    Bug("cancellation.py", "while not predicate():", "while False:"),
    Bug("cancellation.py", "condition.wait(remaining())", "condition.wait()"),
    Bug("cancellation.py", "    checkpoint()\n    while not attempt():", "    while not attempt():"),
)

TAR = (
    Bug("reader.py", "remaining = header.size + padding(header.size)", "remaining = header.size"),
    Bug("reader.py", "        self._skip(self._padding)", "        self._skip(0)"),
    Bug("reader.py", "if not self._skip(self._remaining):", "if not self._skip(self._remaining) and False:"),
    Bug("reader.py", 'if self._buffer[self._position :].strip(b"\\0"):', "if False:"),
    Bug("reader.py", "        if kind is not FileKind.FILE:\n", "        if kind is FileKind.HARDLINK:\n"),
    Bug(
        "reader.py",
        'raise IntegrityError(f"{kind.value} with the records of a sparse file: {printable(name)}")',
        "pass",
    ),
    Bug("headers.py", "and long_name is not None and value != long_name:", "and False:"),
    Bug("reader.py", 'raise IntegrityError("corrupt tar: a single zero block between members")', "pass"),
    Bug("reader.py", "if header.size > _EXTENDED_LIMIT:", "if False:"),
    Bug("reader.py", 'raise IntegrityError("corrupt tar: two GNU long names for one member")', "pass"),
)

FLATTEN = (
    Bug("flatten.py", "                self._hidden_by[whiteout.path] = number", "                pass"),
    Bug("flatten.py", "                self._opaque_in[whiteout.path] = number", "                pass"),
    Bug("flatten.py", "                self._hidden_by[path] = number", "                pass"),
    Bug("flatten.py", "if found.setdefault(path, value) != value:", "if False:"),
    Bug("flatten.py", "if lower is not None and self._lower_target(target) != lower:", "if False:"),
    Bug("flatten.py", "        if is_pseudo_link(target):\n", "        if False:\n"),
    Bug("files.py", "if not is_found and member.path", "if member.path"),
)

SINKS = (
    Bug("unpack.py", "0o7777 if self._options.special_modes else 0o1777", "0o7777"),
    Bug("unpack.py", "if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):",
        "if False:"),
)  # fmt: skip

FILES = (
    Bug("operating_system.py", "os.O_CREAT | os.O_EXCL |", "os.O_CREAT |"),
    Bug("operating_system.py", 'getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW |', 'getattr(os, "O_DIRECTORY", 0) |'),
)

TRANSFER = (
    Bug("target.py", "if mount_candidate is not None and target.blobs.mount(blob.digest, mount_candidate):",
        "if False:"),
    Bug("target.py", "if is_nondistributable(child.media_type) and not self._foreign_layers:", "if False:"),
    Bug("target.py", "return has_response or isinstance", "return isinstance"),
    Bug("target.py", "if isinstance(error, _FINAL):", "if False:"),
    Bug("target.py", "if failed >= _MAX_FAILED:", "if False:"),
    Bug("target.py", "failed + 1 if isinstance(error, _FAILED) else 0", "failed + 1"),
    Bug("target.py", "        self._failed[key] = 0\n", ""),
    Bug("scheduler.py", "            if self._options.overwrite:\n", "            if True:\n"),
    Bug("scheduler.py", "isinstance(error, NotFound) or not is_inconclusive(error)", "True"),
    Bug("state.py", "active.waiting.append((parent, True))", "parent.blockers -= 1"),
    Bug("state.py", "node.dependency_failed = node.content not in repository.done", "pass"),
    Bug("copy.py", "self._options, referrers=False, digest_tags=False)", "self._options)"),
    Bug("scheduler.py", "or self._callbacks.has_raised", "or False"),
    Bug("scheduler.py", "            manifest.check_parts_known()", "            pass"),
    Bug("scheduler.py", "        self._check_parts_known(task, manifest)", "        pass"),
    Bug("scheduler.py", "results += starmap(state.left_out, selected.absent)", "pass"),
    Bug("scheduler.py", "or options.reduces_indexes or options.repair:", "or options.platforms or options.repair:"),
    Bug("platforms.py", "in self._stored) and self._is_present(entry)", "in self._stored)"),
    Bug("platforms.py", "                    self._look_up(part)", "                    continue"),
    Bug("platforms.py", "return is_listed_image(self._repository, entry)", "return False"),
    Bug("platforms.py", "found = found or set(equal)", "found = set(equal)"),
    Bug("platforms.py", "if names_platform(found) else", "if found.platform else"),
    Bug("state.py", "if is_unknown else \"\"", "if False else \"\""),
)  # fmt: skip

PLATFORMS = (
    Bug(
        "platform.py",
        "(host.os, host.architecture) != (image.os, image.architecture)",
        "host.architecture != image.architecture",
    ),
    Bug("platform.py", "        -len(set(offered.os_features) - set(requested.os_features)),\n", ""),
    Bug("platform.py", 'safe="")', 'safe="/")'),
    Bug("platform.py", "if platform.os.strip() and platform.architecture.strip() else None", ""),
    Bug(
        "platform.py",
        "        except msgspec.ValidationError:\n            return None",
        "        except KeyError:\n            return None",
    ),
)

SELECTION = (
    Bug("manifests.py", "            if not _is_unreadable(error):", "            if True:"),
    Bug("manifests.py", "        if _is_unreadable(error):", "        if False:"),
    Bug("manifests.py", " and not _demands_more(chosen.platform, wanted):", ":"),
    Bug("manifests.py", "not is_attestation(entry) or configured_platform(repository, entry) is not None", "True"),
    Bug("manifests.py", "if not config.allows(platform):", "if config.platform is None:"),
    Bug(
        "manifests.py",
        "not descriptor.artifact_type or is_image_config(",
        "not descriptor.artifact_type or False and is_image_config(",
    ),
    Bug("manifests.py", "if names_platform(entry):", "if entry.platform is not None:"),
)

KINDS = (
    Bug("manifest.py", "return self.artifact.blobs if is_artifact_manifest(self.media_type) else ()", "return ()"),
    Bug("manifest.py", "if known and is_index(known) and has_image_parts:", "if False:"),
    Bug("manifest.py", "if is_artifact and not mapping.keys().isdisjoint(_OTHER_PARTS):", "if False:"),
    Bug("manifest.py", 'mapping | {"config": config | {"mediaType": ""}}', "mapping"),
    Bug("media_types.py", "manifest == DOCKER_MANIFEST and is_generic(media_type)", "is_generic(media_type)"),
    Bug("media_types.py", "manifest == DOCKER_MANIFEST and is_generic(media_type)", "False"),
    Bug(
        "image_config.py",
        "Platform.of_document(mapping) or Platform.of_document(required)",
        "Platform.of_document(mapping)",
    ),
)

MIRROR = (
    Bug("prune.py", "if is_of_digest(name):", "if False:"),
    Bug("prune.py", "action=Action.DELETE if selected else Action.KEEP,", "action=Action.DELETE,"),
    Bug("prune.py", "            except ImageNotFound:\n                continue\n            raise ProtocolError(",
        "            except ImageNotFound:\n                continue\n            str("),
    Bug("prune.py", "            except RepositoryNotFound:\n                raise\n", ""),
    Bug("mirror.py", "if not each.is_kept and each.tag not in present])", "if False])"),
    Bug("mirror.py", "if rule.allow_empty:", "if True:"),
    Bug("mirror.py", "reference=digest, tags=() if tag is None else (tag,))", "reference=digest)"),
    Bug("selection.py", "if tag not in pinned and (", "if ("),
    Bug("mirror.py", "unmatched.pop(pattern, None)", "unmatched.clear()"),
    Bug("mirror.py", "if count and not has_selected:", "if False:"),
    Bug("mirror.py", "results.append(failure)", "pass"),
    Bug("mirror.py", "            # The repository itself reports it.\n            self.unlisted = str(target)\n", ""),
    Bug("mirror.py", "        if entries.error is not None:\n            self.unlisted = str(target)\n", ""),
    Bug("prune.py", "if each.target in failed:", "if False:"),
    Bug("prune.py", "if manifests.resolve(each.tag).digest != each.node.digest:", "if False:"),
    Bug("prune.py", "failed.add(each.target)", "pass"),
    Bug("versions.py", '_NUMBER: Final = r"[0-9]{1,20}"', '_NUMBER: Final = r"(?:0|[1-9][0-9]{0,19})"'),
    Bug("versions.py", "(?:[+_](?P<build>", "(?:[+](?P<build>"),
    Bug("versions.py", "while count and not numbers[count - 1]:", "while False:"),
    Bug("versions.py", r'r">=\1 <=\2"', r'r">=\1 <\2"'),
    Bug("selection.py", 'if glob.strip("*?")', "if glob"),
    Bug("selection.py", 'rf"(?:{_ARCHITECTURE}|[a-z]+|', 'rf"(?:[a-z]+|'),
    Bug("selection.py", "if self.latest is None or version_of(tag) is not None", "if True"),
    Bug("selection.py", "for tag in scope - (floating - named.matching(floating))", "for tag in scope"),
)  # fmt: skip

REBASE = (
    Bug("config.py", "after.insert(place,", "after.insert(len(after),"),
    Bug("config.py", 'if image.get("Entrypoint") != old_base.get("Entrypoint") else', "if False else"),
    Bug("config.py", "if key not in keep and value == old_base.get(key, _MISSING):", "if key not in keep:"),
)

LOWER_PATHS = (
    Bug("lower_paths.py", "elif kind is PathKind.FILE or (kind is PathKind.MISSING and creates):", "else:"),
    Bug(
        "lower_paths.py",
        "if kind is PathKind.LINK:\n                links += 1",
        "if False:\n                links += 1",
    ),
    Bug("lower_paths.py", "return self._directory(path, creates=creates)", "return resolved"),
    Bug("lower_paths.py", "if is_costly and not read_all:", "if False:"),
    Bug("lower_paths.py", "found = self._find(path, lower, read_all=True)", "pass"),
    Bug("lower_paths.py", " or part.descriptor.size > _MAX_SIZE", ""),
    Bug("lower_paths.py", "path = paths.hard_links[path]", 'return PathKind.FILE, b""'),
    Bug("lower_paths.py", "if paths.hides(path):", "if False:"),
    Bug("lower_paths.py", 'current = [] if link.startswith(b"/") else current[:-1]', "current = current[:-1]"),
    Bug("lower_paths.py", "return kind is PathKind.DIRECTORY or (", "return ("),
    Bug("lower_paths.py", " and len(self._unresolved) > 1)", ")"),
    Bug("builder.py", "self._lower_paths.add(layer.descriptor.digest, entries)", "pass"),
)

ENTRIES = (
    Bug("entries.py", "special = mode & _SPECIAL_BITS if self.special_modes else 0", "special = mode & _SPECIAL_BITS"),
    Bug("entries.py", "return mode & (0o777 | stat.S_ISVTX) | special", "return 0o755 if executable else 0o644"),
    Bug("windows.py", 'complete.setdefault("/".join(names[:length]), _DIRECTORY)', "pass"),
    Bug(
        "windows.py", 'return (attributes, (b"MSWINDOWS.rawsd", base64.b64encode(descriptor)))', "return (attributes,)"
    ),
    Bug("builder.py", 'if part.os and (part.os == "windows") != self._is_windows:', "if False:"),
    Bug("repack.py", "                check_windows_member(member)", "                pass"),
    Bug("entries.py", "skipped.append(str(disk))", "pass"),
    Bug("patterns.py", "prunes=not later and", "prunes="),
    Bug("patterns.py", 'any("[" in line for line in lines)', "False"),
    Bug("patterns.py", "(found.index in later and bool(later[found.index].match_file(path)))", "False"),
    Bug("patterns.py", "if _UNSUPPORTED.search(line):", "if False:"),
    Bug("patterns.py", "if pattern.include is None:", "if False:"),
    Bug("patterns.py", 'line.rstrip("\\r\\n")', "line"),
    Bug("entries.py", 'excludes(f"{below}/" if is_directory else below)', "excludes(below)"),
    Bug("entries.py", "if excluded and (exclude.prunes or not is_directory):", "if excluded:"),
    Bug("entries.py", 'while (below := below.rpartition("/")[0]) in left_out:', "while False:"),
    Bug("entries.py", "left_out[below] = entry\n                continue", "left_out[below] = entry"),
)

ARTIFACTS = (
    Bug("pull.py", "    check_distinct_titles(titles)", "    titles.sort()"),
    Bug("directories.py", "        if known != value:", "        if False:"),
    Bug("directories.py", "not sink.has_content(stripped.path, reader.chunks())", "False"),
    Bug("pull.py", "if not (self._overwrite and stat.S_ISREG(status.st_mode)):", "if False:"),
)

VALIDATION = (
    Bug("validate.py", "if not is_rfc3339(created):", "if False:"),
    Bug("validate.py", "if config.history and count != len(layers) and has_diff_ids:", "if False:"),
    Bug("validate.py", 'if entry.get("platform") is not None and child.platform is None:', "if False:"),
    Bug("validate.py", "if (wanted.os, wanted.architecture) != (actual.os, actual.architecture):", "if False:"),
)

DATES = (
    Bug(
        "rfc3339.py", 'return f"{day}T{time}{fraction or \'\'}" + ("Z" if utc else f"{hours}:{minutes}")', "return text"
    ),
    Bug("rfc3339.py", "if not _is_day(day):", "if False:"),
)

GARBAGE = (
    Bug("garbage.py", "if digest not in self._reachability.digests:\n                        self._remove",
        "if True:\n                        self._remove"),
)  # fmt: skip

TARGETS = {
    "memory": Target("src/registry_adapters/memory", "contract/test_memory.py", MEMORY),
    "layout": Target("src/registry_adapters/layout", "contract/test_layout.py", LAYOUT),
    "links": Target("src/registry_adapters/layout", "unit/registry_adapters/layout/test_links.py", LINKS),
    "layout_names": Target(
        "src/registry_adapters/layout", "unit/registry_adapters/layout/test_layout_names.py", LAYOUT_NAMES
    ),
    "mirrored_names": Target(
        "src/registry_core/ops/mirror", "unit/registry_core/ops/mirror/test_names.py", MIRRORED_NAMES
    ),
    "references": Target("src/registry_core/ops", "unit/registry_core/test_client_names.py", REFERENCES),
    "layout_entries": Target("src/registry_core/domain", "unit/registry_core/test_client_names.py", LAYOUT_ENTRIES),
    "image_names": Target("src/registry_core/domain", "unit/registry_core/domain/test_image_names.py", IMAGE_NAMES),
    "http": Target("src/registry_adapters/http", "contract/test_http_in_process.py", HTTP),
    "lists": Target("src/registry_adapters/http", "unit/registry_adapters/http/test_paging.py", LISTS),
    "elsewhere": Target(
        "src/registry_adapters/http", "contract/test_http_docker_registry.py", ELSEWHERE, "docker-registry"
    ),
    "keychains": Target("src/registry_adapters/keychains", "contract/test_keychains.py", KEYCHAINS),
    "patterns": Target(
        "src/registry_adapters/keychains", "unit/registry_adapters/keychains/test_docker_config.py", PATTERNS
    ),
    "secrets": Target("src/registry_core/domain", "contract/test_keychains.py", SECRETS),
    "auth": Target("src/registry_adapters/auth", "contract/test_authenticators.py", AUTH),
    "token_servers": Target(
        "src/registry_adapters/http", "unit/registry_adapters/auth/test_authenticator_realm.py", TOKEN_SERVERS
    ),
    "single_flight": Target(
        "src/registry_adapters/auth", "unit/registry_adapters/auth/test_single_flight.py", SINGLE_FLIGHT
    ),
    "tokens": Target("src/registry_adapters/auth", "unit/registry_adapters/auth/test_tokens_cache.py", TOKENS),
    "transfers": Target("src/registry_adapters/http", "unit/registry_adapters/http/test_blobs_downloads.py", TRANSFERS),
    "requests": Target("src/registry_adapters/http", "unit/registry_adapters/http/test_session.py", REQUESTS),
    "failures": Target(
        "src/registry_adapters/http", "unit/registry_adapters/http/transport/test_failures.py", FAILURES
    ),
    "errors": Target("src/registry_adapters/http", "unit/registry_adapters/http/test_error_mapping.py", ERRORS),
    "hidden": Target("src/registry_adapters/http", "unit/registry_adapters/http/test_session_hidden.py", HIDDEN),
    "server": Target("src/registry_adapters/wsgi", "unit/registry_adapters/wsgi/test_inert_responses.py", SERVER),
    "redirects": Target(
        "src/registry_adapters/http", "unit/registry_adapters/http/test_session_redirects.py", REDIRECTS
    ),
    "connections": Target(
        "src/registry_adapters/http", "unit/registry_adapters/http/transport/test_connection.py", CONNECTIONS
    ),
    "uploads": Target(
        "src/registry_adapters/http",
        "unit/registry_adapters/http/test_uploads.py unit/registry_adapters/http/test_uploads_statuses.py "
        "unit/registry_adapters/http/test_uploads_closed_connections.py unit/registry_adapters/http/test_blobs.py "
        "unit/registry_adapters/http/test_manifests.py "
        "unit/registry_adapters/http/transport/test_urllib3_transport.py",
        UPLOADS,
    ),
    "policy": Target("src/registry_core/domain", "unit/registry_core/domain/test_url_policy.py", POLICY),
    "archive": Target("src/registry_adapters/archive", "contract/test_archives.py", ARCHIVE),
    "exports": Target("src/registry_adapters/archive", "unit/registry_adapters/archive/test_writer.py", EXPORTS),
    "cancellation": Target("src/registry_core", "unit/registry_core/test_cancellation.py", CANCELLATION),
    "tar": Target("src/registry_core/ops/tar", "unit/registry_core/ops/tar/test_reader.py", TAR),
    "flatten": Target("src/registry_core/ops/extract", "unit/registry_core/ops/extract/test_flatten.py", FLATTEN),
    "sinks": Target("src/registry_core/ops/extract", "unit/registry_core/ops/extract", SINKS),
    "files": Target("src/registry_core/content", "unit/registry_core/ops/extract", FILES),
    "transfer": Target("src/registry_core/ops/transfer", "unit/registry_core/ops/transfer", TRANSFER),
    "platforms": Target("src/registry_core/domain", "unit/registry_core/domain/test_platform.py", PLATFORMS),
    "selection": Target("src/registry_core/ops", "unit/registry_core/ops/test_manifests_select.py", SELECTION),
    "kinds": Target("src/registry_core/domain", "unit/registry_core/domain/test_kinds.py", KINDS),
    "mirror": Target("src/registry_core/ops/mirror", "unit/registry_core/ops/mirror", MIRROR),
    "rebase": Target("src/registry_core/ops/builder", "unit/registry_core/ops/builder", REBASE),
    "lower_paths": Target(
        "src/registry_core/ops/builder", "unit/registry_core/ops/builder/test_lower_paths.py", LOWER_PATHS
    ),
    "entries": Target("src/registry_core/ops/builder", "unit/registry_core/ops/builder", ENTRIES),
    "artifacts": Target("src/registry_core/ops/artifacts", "unit/registry_core/ops/artifacts/test_pull.py", ARTIFACTS),
    "validation": Target(
        "src/registry_core/ops/validation", "unit/registry_core/ops/validation/test_validate.py", VALIDATION
    ),
    "dates": Target("src/registry_core/domain", "unit/registry_core/domain/test_rfc3339.py", DATES),
    "garbage": Target("src/registry_adapters/layout", "unit/registry_adapters/layout/test_garbage.py", GARBAGE),
}


class Copies:
    """Copies of the sources, one for each thread, with caches of compiled modules that all runs on a copy share."""

    def __init__(self, directory: Path, count: int) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        self._moments = itertools.count(1)
        for number in range(count):
            copy = directory / str(number)
            shutil.copytree(PROJECT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
            self._free.put(copy)

    @contextmanager
    def unchanged(self) -> Iterator[Path]:
        """A copy without a bug."""
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)

    @contextmanager
    def changed(self, file: str, old: str, new: str) -> Iterator[Path]:
        """A copy with a bug.

        Raises:
            LookupError: The file does not contain the old text exactly once.
            SyntaxError: The file cannot be compiled with the new text.
        """
        with self.unchanged() as copy:
            path = copy / file
            content, status = path.read_text(encoding="utf-8"), path.stat()
            if content.count(old) != 1:
                raise LookupError(old)
            changed = content.replace(old, new)
            compile(changed, str(path), "exec")
            path.write_text(changed, encoding="utf-8")
            # A compiled module is recognised by the time and size of its source: give each version its own time.
            moment = status.st_mtime + next(self._moments)
            os.utime(path, (moment, moment))
            try:
                yield copy
            finally:
                path.write_text(content, encoding="utf-8")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def main(arguments: list[str]) -> int:
    """Plant the bugs of some groups; 0 if the tests notice each of them."""
    parser = argparse.ArgumentParser(description="Plant bugs, and check that tests fail.")
    parser.add_argument("group", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument(
        "--tests-passed", action="store_true", help="do not run the tests without bugs first, as they have just passed"
    )
    parsed = parser.parse_args(arguments)
    chosen = parsed.group or list(TARGETS)
    if unknown := [name for name in chosen if name not in TARGETS]:
        parser.error(f"no such group: {', '.join(unknown)}")
    problems = 0
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(workers) as pool:
        copies = Copies(Path(directory), workers)
        checked = [] if parsed.tests_passed else chosen
        failures = dict(zip(checked, pool.map(lambda name: check(copies, TARGETS[name]), checked), strict=True))
        for name, failure in failures.items():
            if failure:
                say(f"BROKEN  {name}: {failure}")
                problems += 1
        planted = [(name, bug) for name in chosen if not failures.get(name) for bug in TARGETS[name].bugs]
        results = pool.map(lambda each: plant(copies, TARGETS[each[0]], each[1]), planted)
        for (name, bug), result in zip(planted, results, strict=True):
            problems += result != "caught"
            say(f"{result:8}{name}/{bug.file}: {bug.old} -> {bug.new or 'nothing'}")
    say(f"{problems} problems" if problems else f"all {len(planted)} bugs were caught")
    return 1 if problems else 0


def check(copies: Copies, target: Target) -> str:
    """Run the tests of a target without a bug; the reason why they fail, or an empty string."""
    if target.program and shutil.which(target.program) is None:
        return f"{target.program} is not installed"
    with copies.unchanged() as copy:
        return "" if run_tests(copy, target.tests) == 0 else f"{target.tests} fails without a bug"


def plant(copies: Copies, target: Target, bug: Bug) -> str:
    """Plant one bug: ``caught`` or ``MISSED`` by the tests, ``MOVED`` if the text is not found, else ``BROKEN``."""
    try:
        with copies.changed(f"{target.folder}/{bug.file}", bug.old, bug.new) as copy:
            return {0: "MISSED", 1: "caught"}.get(run_tests(copy, target.tests), "BROKEN")
    except LookupError:
        return "MOVED"
    except SyntaxError:
        return "BROKEN"
    except subprocess.TimeoutExpired:
        return "caught"


def run_tests(copy: Path, tests: str) -> int:
    """The exit code of pytest for some tests with a copy of the sources; 1 means that tests failed."""
    # Separate temporary files, so that concurrent runs do not remove those of each other.
    temporary = f"--basetemp={copy / 'temporary'}"
    paths = [f"tests/{path}" for path in tests.split()]
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={LONGEST_TEST}", temporary]
    command = [sys.executable, "-m", "pytest", *options, *paths]
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(copy / "compiled"),
    }
    run = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, check=False, timeout=LONGEST_RUN)
    return run.returncode


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
