"""Rendered frames, thumbnails and WADO-URI (PS3.18 §9, §10.4.1.1.3)."""

import sys
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from support.web import CT, MR_RLE, ROOT, path_of, read, store

from pacsroute import App, Instance
from pacsroute.memory import PROCESS

PALETTE = "examples_palette.dcm"
PNG = {"Accept": "image/png"}
IMAGE = f"{ROOT}/studies/1.2/series/1.3/instances/1.4"


@pytest.fixture
def stored(web):
    assert store(web, CT, MR_RLE).status_code == 200
    return web


def pixels(response):
    assert response.status_code == 200, response.data
    return np.asarray(Image.open(BytesIO(response.data)))


def showing(source):
    """Return an app whose retrievals send one instance."""
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield Instance(source)

    return app


def test_a_window_decides_what_is_black_and_white(stored):
    ct = read(CT)
    values = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    found = pixels(stored.get(f"{path_of(ct)}/rendered?window=0,500,linear", headers=PNG))
    assert found.shape == (ct.Rows, ct.Columns)
    assert (found[values <= -250] == 0).all()
    assert (found[values >= 250] == 255).all()
    middle = (values > -200) & (values < 200)
    order = np.argsort(values[middle], kind="stable")
    assert (np.diff(found[middle][order].astype(int)) >= 0).all()


def test_a_compressed_frame_is_decoded_for_it(stored):
    mr = read(MR_RLE)
    found = pixels(stored.get(f"{path_of(mr)}/frames/1/rendered", headers=PNG))
    expected = mr.pixel_array
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif"])
def test_the_media_type_is_negotiated(stored, kind):
    response = stored.get(f"{path_of(read(CT))}/rendered", headers={"Accept": f"image/{kind}"})
    assert response.content_type == f"image/{kind}"
    assert Image.open(BytesIO(response.data)).format == kind.upper()


def test_a_viewport_has_a_size_and_a_region(stored):
    path = f"{path_of(read(CT))}/rendered"
    whole = pixels(stored.get(f"{path}?window=0,500", headers=PNG))
    assert pixels(stored.get(f"{path}?viewport=64,32", headers=PNG)).shape == (32, 32)
    part = stored.get(f"{path}?window=0,500&viewport=20,10,30,40,20,10", headers=PNG)
    assert (pixels(part) == whole[40:50, 30:50]).all()
    turned = stored.get(f"{path}?window=0,500&viewport=20,10,30,40,-20,10", headers=PNG)
    assert (pixels(turned) == whole[40:50, 30:50][:, ::-1]).all()


def test_a_region_ends_where_the_image_does(stored):
    path = f"{path_of(read(CT))}/rendered"
    whole = pixels(stored.get(f"{path}?window=0,500", headers=PNG))
    part = stored.get(f"{path}?window=0,500&viewport=28,28,100,100,90000,90000", headers=PNG)
    assert (pixels(part) == whole[100:, 100:]).all()
    beside = stored.get(f"{path}?viewport=28,28,500,500,10,10", headers=PNG)
    assert (beside.status_code, beside.data) == (404, b"the region is outside the image\n")


def test_a_picture_draws_on_the_memory_of_the_process(archive):
    archive.config.max_memory = 64 * 1_048_576
    before = PROCESS.held
    with archive.test_client() as client:
        store(client.web, CT)
        path = f"{path_of(read(CT))}/rendered"
        assert client.web.get(f"{path}?viewport=1000,1000", headers=PNG).status_code == 200
        refused = client.web.get(f"{path}?viewport=8000,8000", headers=PNG)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
    assert PROCESS.held < before + 1_048_576


@pytest.mark.parametrize("levels", [2, 4, 6])
def test_each_level_has_a_thumbnail(stored, levels):
    path = "/".join(path_of(read(CT)).split("/")[: 2 + levels])
    response = stored.get(f"{path}/thumbnail")
    assert response.content_type == "image/jpeg"
    assert pixels(response).shape == (128, 128)
    assert pixels(stored.get(f"{path}/thumbnail?viewport=16,16")).shape == (16, 16)


@pytest.mark.parametrize(
    "query",
    [
        "quality=0",
        "quality=x",
        "viewport=0,1",
        "viewport=1",
        "viewport=1,1,-1,0,1,1",
        "window=1",
        "window=1,0",
        "window=1,2,cubic",
        "window=nan,1",
    ],
)
def test_parameters_that_are_none_are_refused(stored, query):
    assert stored.get(f"{path_of(read(CT))}/rendered?{query}").status_code == 400


@pytest.mark.parametrize(
    "name", ["SC_rgb_small_odd.dcm", "SC_rgb_rle_16bit.dcm", "examples_palette.dcm"]
)
def test_colours_are_shown(name):
    dataset = pydicom.dcmread(get_testdata_file(name))
    expected = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        expected = pydicom.pixels.apply_color_lut(expected, dataset)
    if expected.dtype.itemsize == 2:
        expected = expected >> 8
    with showing(get_testdata_file(name)).test_client() as client:
        found = pixels(client.web.get(f"{IMAGE}/rendered", headers=PNG))
    assert (found == expected[..., :3]).all()


@pytest.mark.parametrize("name", ["SC_ybr_full_422_uncompressed.dcm", "examples_ybr_color.dcm"])
def test_colours_of_ycbcr_become_rgb(name):
    dataset = pydicom.dcmread(get_testdata_file(name))
    expected = next(pydicom.pixels.iter_pixels(dataset))
    with showing(get_testdata_file(name)).test_client() as client:
        found = pixels(client.web.get(f"{IMAGE}/rendered", headers=PNG))
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_inverted_grey_values_are_turned_round():
    ct = read(CT)
    with showing(ct).test_client() as client:
        plain = pixels(client.web.get(f"{IMAGE}/rendered?window=0,500", headers=PNG))
    ct.PhotometricInterpretation = "MONOCHROME1"
    with showing(ct).test_client() as client:
        found = pixels(client.web.get(f"{IMAGE}/rendered?window=0,500", headers=PNG))
    assert (found == 255 - plain).all()


def test_what_has_no_pixels_cannot_be_shown():
    with showing(get_testdata_file("rtplan.dcm")).test_client() as client:
        for rest in ("/rendered", "/thumbnail", "/frames/1"):
            assert client.web.get(IMAGE + rest).status_code == 404


def wado(dataset, **values):
    names = {
        "requestType": "WADO",
        "studyUID": dataset.StudyInstanceUID,
        "seriesUID": dataset.SeriesInstanceUID,
        "objectUID": dataset.SOPInstanceUID,
    }
    return {key: value for key, value in (names | values).items() if value is not None}


def test_wado_uri_is_a_jpeg_where_nothing_else_is_asked_for(stored):
    response = stored.get(f"{ROOT}/wado", query_string=wado(read(CT)))
    assert response.content_type == "image/jpeg"
    assert pixels(response).shape == (128, 128)


def test_wado_uri_has_regions_sizes_and_windows(stored):
    query = wado(
        read(CT),
        contentType="image/png",
        region="0,0,0.5,0.25",
        columns=32,
        windowCenter=0,
        windowWidth=500,
        frameNumber=1,
    )
    assert pixels(stored.get(f"{ROOT}/wado", query_string=query)).shape == (16, 32)


def test_wado_uri_sends_an_instance(stored):
    ct = read(CT)
    query = wado(ct, contentType="application/dicom")
    response = stored.get(f"{ROOT}/wado", query_string=query)
    assert response.content_type.startswith("application/dicom;")
    assert pydicom.dcmread(BytesIO(response.data)).PixelData == ct.PixelData


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"requestType": None}, 400),
        ({"objectUID": "x"}, 400),
        ({"seriesUID": None}, 400),
        ({"contentType": "text/html"}, 406),
        ({"region": "1,0,0,1"}, 400),
        ({"windowCenter": "1"}, 400),
        ({"frameNumber": "2"}, 404),
        ({"objectUID": "1.2.3"}, 404),
    ],
)
def test_wado_uri_refuses_what_it_has_not(stored, values, status):
    response = stored.get(f"{ROOT}/wado", query_string=wado(read(CT), **values))
    assert response.status_code == status


def test_without_pillow_it_names_the_extra(stored, monkeypatch):
    monkeypatch.delitem(sys.modules, "pacsroute.web.rendering")
    monkeypatch.setitem(sys.modules, "PIL", None)
    response = stored.get(f"{path_of(read(CT))}/rendered")
    assert (response.status_code, "pacsroute[web,pixels]" in response.text) == (501, True)
