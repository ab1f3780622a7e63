"""Rendered frames, thumbnails and WADO-URI (PS3.18 §9, §10.4.1.1.3)."""

import sys
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from support.web import CT, MR_RLE, ROOT, parts, path_of, read, store

from pacsroute import App, Instance
from pacsroute.web.statuses import Failed

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
    whole = pixels(stored.get(f"{path}?window=0,500,linear", headers=PNG))
    assert pixels(stored.get(f"{path}?viewport=64,32", headers=PNG)).shape == (32, 32)
    part = stored.get(f"{path}?window=0,500,linear&viewport=20,10,30,40,20,10", headers=PNG)
    assert (pixels(part) == whole[40:50, 30:50]).all()
    turned = stored.get(f"{path}?window=0,500,linear&viewport=20,10,30,40,-20,10", headers=PNG)
    assert (pixels(turned) == whole[40:50, 30:50][:, ::-1]).all()


def test_a_region_ends_where_the_image_does(stored):
    path = f"{path_of(read(CT))}/rendered"
    whole = pixels(stored.get(f"{path}?window=0,500,linear", headers=PNG))
    part = stored.get(f"{path}?window=0,500,linear&viewport=28,28,100,100,90000,90000", headers=PNG)
    assert (pixels(part) == whole[100:, 100:]).all()
    beside = stored.get(f"{path}?viewport=28,28,500,500,10,10", headers=PNG)
    assert (beside.status_code, beside.data) == (404, b"the region is outside the image\n")


def test_a_picture_is_drawn_in_a_child_within_its_memory(archive, monkeypatch):
    # Other tests import every module there is.
    monkeypatch.delitem(sys.modules, "pacsroute.instances.decoding.rendering", raising=False)
    archive.config.decode_memory = 200 * 1_048_576
    with archive.test_client() as client:
        store(client.web, CT)
        path = f"{path_of(read(CT))}/rendered"
        refused = client.web.get(f"{path}?viewport=8000,8000", headers=PNG)
        assert refused.status_code == 404
        assert "too much for decode_memory" in refused.text
        shown = pixels(client.web.get(f"{path}?viewport=1000,1000", headers=PNG))
        assert shown.shape == (1000, 1000)
    assert "pacsroute.instances.decoding.rendering" not in sys.modules


def test_a_palette_that_is_none_harms_nobody(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file(PALETTE))
    for descriptor in ([0, 0, 16], [65535, 65535, 64], [1, 0, 8]):
        dataset.RedPaletteColorLookupTableDescriptor = descriptor
        path = tmp_path / f"{descriptor[0]}.dcm"
        dataset.save_as(path)
        with showing(path).test_client() as client:
            response = client.web.get(f"{IMAGE}/rendered", headers=PNG)
            assert response.status_code == 404, descriptor
            assert "cannot be" in response.text


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
        "viewport=1,1,0,0,0,1",
        "viewport=1,1,,,,,",
        "window=1",
        "window=1,0,linear",
        "window=1,2",
        "annotation=x",
        "annotation=",
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
        plain = pixels(client.web.get(f"{IMAGE}/rendered?window=0,500,linear", headers=PNG))
    ct.PhotometricInterpretation = "MONOCHROME1"
    with showing(ct).test_client() as client:
        found = pixels(client.web.get(f"{IMAGE}/rendered?window=0,500,linear", headers=PNG))
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


def test_a_parameter_that_changes_nothing_is_told(stored):
    path = path_of(read(CT))
    for query in ("annotation=patient,technique", "iccprofile=yes"):
        response = stored.get(f"{path}/rendered?{query}")
        name = query.partition("=")[0]
        assert response.headers["Warning"] == (
            f'299 http://localhost{ROOT} "Not supported, and ignored: {name}"'
        )
    asked = wado(read(CT), imageAnnotation="patient")
    assert "imageAnnotation" in stored.get(f"{ROOT}/wado", query_string=asked).headers["Warning"]


def test_values_of_a_viewport_may_be_left_out(stored):
    path, whole = path_of(read(CT)), "viewport=64,64"
    picture = pixels(stored.get(f"{path}/rendered?{whole}", headers=PNG))
    for query in (f"{whole},,,128,128", f"{whole},0", f"{whole},,0,,128", f"{whole},-0,0"):
        assert (pixels(stored.get(f"{path}/rendered?{query}", headers=PNG)) == picture).all()
    right = pixels(stored.get(f"{path}/rendered?{whole},64", headers=PNG))
    assert right.shape == (64, 32)
    flipped = pixels(stored.get(f"{path}/rendered?{whole},,,-128", headers=PNG))
    assert (flipped[:, ::-1] == picture).all()
    assert stored.get(f"{path}/thumbnail?viewport=64,64,0,0").status_code == 400


def series(*sources):
    """Return an app whose retrievals send several instances."""
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield from map(Instance, sources)

    return app


TWO_FRAMES, REPORT = "SC_rgb_rle_2frame.dcm", "reportsi.dcm"
PARTS = {"Accept": 'multipart/related; type="image/png"'}


def pictures(response):
    return [np.asarray(Image.open(BytesIO(data))) for _, data in parts(response)]


@pytest.mark.parametrize("levels", [4, 6, 8])
def test_all_frames_of_all_instances_come_in_parts(levels):
    files = [get_testdata_file(name) for name in (TWO_FRAMES, REPORT, CT)]
    path = "/".join(IMAGE.split("/")[:levels])
    with series(*files).test_client() as client:
        found = pictures(client.web.get(f"{path}/rendered", headers=PARTS))
        assert [one.shape for one in found] == [(100, 100, 3), (100, 100, 3), (128, 128)]
        assert (found[0] == pydicom.dcmread(files[0]).pixel_array[0]).all()
        assert (found[1] == pydicom.dcmread(files[0]).pixel_array[1]).all()
        anything = client.web.get(f"{path}/rendered", headers={"Accept": "*/*"})
        assert [kind for kind, _ in parts(anything)] == ["image/jpeg"] * 3
        # A client that takes no parts, as a browser's <img>, gets the first.
        assert (pixels(client.web.get(f"{path}/rendered", headers=PNG)) == found[0]).all()
        small = client.web.get(f"{path}/thumbnail", headers=PARTS)
        assert [one.shape for one in pictures(small)] == [(128, 128, 3)]


def test_a_single_frame_needs_no_parts():
    with showing(get_testdata_file(TWO_FRAMES)).test_client() as client:
        one = client.web.get(f"{IMAGE}/frames/2/rendered", headers={"Accept": "*/*"})
        assert one.content_type == "image/jpeg"
        both = client.web.get(f"{IMAGE}/frames/2,1/rendered", headers=PARTS)
        frames = pydicom.dcmread(get_testdata_file(TWO_FRAMES)).pixel_array
        found = pictures(both)
        assert (found[0] == frames[1]).all()
        assert (found[1] == frames[0]).all()
        assert client.web.get(f"{IMAGE}/frames/1,3/rendered").status_code == 404


def test_pictures_without_one_that_cannot_be_shown_do_not_end_as_a_whole_body(tmp_path):
    broken = pydicom.dcmread(get_testdata_file(CT))
    broken.BitsAllocated = 12
    broken.save_as(tmp_path / "broken.dcm")
    files = [tmp_path / "broken.dcm", get_testdata_file(CT)]
    with series(*files).test_client() as client:
        response = client.web.get(f"{ROOT}/studies/1.2/rendered", headers=PARTS, buffered=False)
        found = []
        with pytest.raises(Failed, match="left out: 1 of 2 frames"):
            found.extend(response.iter_encoded())
        response.close()
    assert b"".join(found).count(b"Content-Type: image/png") == 1
    assert not b"".join(found).rstrip().endswith(b"--")


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
        ({"frameNumber": "1,1"}, 400),
        ({"contentType": "application/dicom; transfer-syntax=1.2"}, 400),
        ({"contentType": "application/dicom", "transferSyntax": "x"}, 400),
        ({"contentType": "application/dicom", "transferSyntax": "1.2.840.10008.1.2.5"}, 406),
        ({"contentType": "application/dicom", "anonymize": "yes"}, 501),
        ({"contentType": "video/mp4, image/png"}, 200),
        ({"frameNumber": "2"}, 404),
        ({"objectUID": "1.2.3"}, 404),
    ],
)
def test_wado_uri_refuses_what_it_has_not(stored, values, status):
    response = stored.get(f"{ROOT}/wado", query_string=wado(read(CT), **values))
    assert response.status_code == status


def test_without_pillow_it_names_the_extra(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    response = stored.get(f"{path_of(read(CT))}/rendered")
    assert (response.status_code, "pacsroute[web,pixels]" in response.text) == (501, True)
