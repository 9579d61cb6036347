"""The guards on the whole web role, page included: nothing answers a stranger, no file of the machine gets out."""

from collections.abc import Iterator

import pytest

from tests.web_role import Web


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("home"))
    web.wait()
    yield web
    web.close()


def test_no_route_answers_a_stranger(web: Web) -> None:
    routes = web.routes()
    paths = {path for _, path in routes}
    expected = {"/", "/healthz", "/api/v1/jobs", "/api/v1/jobs/x/events", "/v1/x", "/config", "/docs", "/openapi.json"}
    assert expected | {"/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/file=x"} <= paths
    codes = {f"{method} {path}": web.stranger.request(method, path).status_code for method, path in routes}
    # The closed routes of Gradio are gone for everybody, the sign-in page is there for everybody.
    closed = {where for where, code in codes.items() if code == 404}
    assert all(word.split()[1].startswith(("/gradio_api/", "/monitoring")) for word in closed)
    assert {where: code for where, code in codes.items() if code not in (401, 404) and " /login" not in where} == {}


def test_token_opens_page_and_rest(web: Web) -> None:
    for path in ("/", "/api/v1/jobs", "/healthz", "/docs", "/config"):
        assert web.user.get(path).status_code == 200


def test_file_of_the_machine_does_not_pass_as_an_upload(web: Web) -> None:
    planted = web.home / "planted.csv"
    planted.write_text("secret,word\n" + "hidden,here\n" * 20)
    file_ids = {each["id"] for each in web.config()["components"] if each["type"] in ("file", "uploadbutton")}
    takers = [handler for handler in web.handlers() if file_ids & set(handler["inputs"])]
    assert takers
    for handler in takers:
        for path in (str(planted), "/etc/passwd"):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for data in (file, [file]):
                told = web.call(handler, [data] * len(handler["inputs"]))
                assert "hidden" not in told
                assert "root:" not in told
    assert web.user.get("/api/v1/datasets").json() == []


def test_files_of_the_machine_and_of_the_home_folder_are_not_served(web: Web) -> None:
    (web.home / "secret.txt").write_text("do not show")
    for path in ("/etc/passwd", f"{web.home}/secret.txt", f"{web.home}/studio.db", "../../../../etc/passwd"):
        for route in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/file={path}", f"/static/{path}"):
            answer = web.user.get(route)
            assert answer.status_code in (400, 403, 404, 422), route
            assert "do not show" not in answer.text


def test_name_of_an_uploaded_file_leads_nowhere(web: Web) -> None:
    answer = web.user.post("/gradio_api/upload", files={"files": ("../../a.csv", b"a,b\n1,2\n")})
    assert answer.status_code == 200
    assert ".." not in answer.text


def test_error_of_a_handler_does_not_tell_how_it_is_built(web: Web) -> None:
    for handler in web.handlers()[:20]:
        told = web.call(handler, [{"unforeseen": [1]}] * len(handler["inputs"]))
        assert "Traceback" not in told
        assert "site-packages" not in told
        assert "Error(" not in told


def test_page_carries_the_headers(web: Web) -> None:
    headers = web.user.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
