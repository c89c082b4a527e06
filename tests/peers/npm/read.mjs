// Reads a study as OHIF does, by cornerstone's and dcmjs's adapters, and prints as JSON what they understand.
//
//   node read.mjs SEG.dcm SR.dcm IMAGE.dcm ...
//
// Run it in a folder whose node_modules has the packages of package.json.
import { readFileSync } from 'node:fs';
import { metaData } from '@cornerstonejs/core';
import { adaptersSEG, adaptersSR } from '@cornerstonejs/adapters';
import dcmjs from 'dcmjs';

const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
// What the adapters say on the console is not our JSON.
console.log = console.info = (...words) => console.error(...words);

function buffer(path) {
  const bytes = readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

function naturalized(path) {
  const { dict, meta } = DicomMessage.readFile(buffer(path));
  const ds = DicomMetaDictionary.naturalizeDataset(dict);
  ds._meta = DicomMetaDictionary.namifyDataset(meta);
  return ds;
}

const numbers = values => [...values].map(Number);

// The modules of cornerstone's metadata that the adapters ask for.
function modules(ds) {
  const orientation = numbers(ds.ImageOrientationPatient);
  const [rowPixelSpacing, columnPixelSpacing] = numbers(ds.PixelSpacing);
  return {
    instance: ds,
    generalSeriesModule: { seriesInstanceUID: ds.SeriesInstanceUID, modality: ds.Modality },
    generalImageModule: { sopInstanceUID: ds.SOPInstanceUID },
    sopCommonModule: { sopInstanceUID: ds.SOPInstanceUID, sopClassUID: ds.SOPClassUID },
    imagePlaneModule: {
      frameOfReferenceUID: ds.FrameOfReferenceUID,
      rows: ds.Rows,
      columns: ds.Columns,
      imageOrientationPatient: orientation,
      rowCosines: orientation.slice(0, 3),
      columnCosines: orientation.slice(3),
      imagePositionPatient: numbers(ds.ImagePositionPatient),
      pixelSpacing: [rowPixelSpacing, columnPixelSpacing],
      rowPixelSpacing,
      columnPixelSpacing,
    },
    imagePixelModule: {
      rows: ds.Rows,
      columns: ds.Columns,
      bitsAllocated: 16,
      bitsStored: 16,
      highBit: 15,
      samplesPerPixel: 1,
      pixelRepresentation: ds.PixelRepresentation,
      photometricInterpretation: ds.PhotometricInterpretation,
    },
  };
}

async function readSeg(path, imageIds) {
  const made = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(imageIds, buffer(path), {
    metadataProvider: metaData,
  });
  const [images] = made.labelMapImages;
  return {
    overlapping: made.overlappingSegments,
    segments: made.segMetadata.data
      .filter(Boolean)
      .map(item => ({ number: Number(item.SegmentNumber), label: item.SegmentLabel, tracking: item.TrackingUID })),
    labels: Object.fromEntries(
      images.map((image, index) => [imageIds[index].slice(3), [...image.voxelManager.getScalarData()]])
    ),
  };
}

const codeOf = item => [].concat(item.ConceptNameCodeSequence)[0].CodeValue;
const items = node => [].concat(node.ContentSequence ?? []);

function readSr(path, imageIds) {
  const ds = naturalized(path);
  const groups = items(ds)
    .filter(item => codeOf(item) === '126010')
    .flatMap(items);
  const volumes = {};
  for (const group of groups) {
    const tracking = items(group).find(item => codeOf(item) === '112040').UID;
    for (const item of items(group).filter(item => codeOf(item) === '118565006')) {
      volumes[tracking] = Number([].concat(item.MeasuredValueSequence)[0].NumericValue);
    }
  }
  const { MeasurementReport } = adaptersSR.Cornerstone3D;
  const byInstance = Object.fromEntries(imageIds.map(id => [`${id.slice(3)}:1`, id]));
  const outlines = groups
    .filter(group => items(group).some(item => item.ValueType === 'SCOORD'))
    .map(group => {
      const found = MeasurementReport.getSetupMeasurementData(group, byInstance, metaData, 'PlanarFreehandROI');
      return {
        tracking: items(group).find(item => codeOf(item) === '112040').UID,
        finding: [].concat(found.state.finding)[0]?.CodeMeaning,
        image: found.ReferencedSOPInstanceUID,
        points: found.worldCoords.map(point => [...point]),
      };
    });
  return { volumes, outlines };
}

const [segPath, srPath, ...imagePaths] = process.argv.slice(2);
const byId = new Map(
  imagePaths.map(path => {
    const ds = naturalized(path);
    return [`id:${ds.SOPInstanceUID}`, modules(ds)];
  })
);
metaData.addProvider((type, id) => byId.get(id)?.[type]);
const imageIds = [...byId.keys()];
const read = { seg: await readSeg(segPath, imageIds), sr: readSr(srPath, imageIds) };
process.stdout.write(JSON.stringify(read));
process.exit(0);
